"""The trace context of a message, compared with the propagators."""

from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context as Request
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context

from otel_celery_launcher.tasks.propagation import REQUEST, parent_of


@pytest.mark.parametrize(
    "carrier", [5, "text", {"traceparent": 5}, {5: 5}, None, ["x"]]
)
def test_what_is_no_carrier_is_passed_over(carrier: Any) -> None:
    request = Request(otel_context=carrier, kwargs={"_otel": carrier}, args=[carrier])
    assert parent_of(request) == {}


IDS = st.one_of(st.text("0123456789abcdef", min_size=0, max_size=34), st.just("0" * 32))


TRACEPARENTS = st.one_of(
    st.none(),
    st.integers(),
    st.text(),
    st.builds(
        "-".join,
        st.tuples(
            st.sampled_from(["00", "01", "ff", "0"]),
            st.one_of(st.uuids().map(lambda each: each.hex), IDS),
            st.one_of(st.uuids().map(lambda each: each.hex[:16]), IDS),
            st.sampled_from(["00", "01", "03", "ff", "1", "01-x", "01 ", "01\n"]),
        ),
    ),
)


@given(
    traceparent=TRACEPARENTS,
    others=st.dictionaries(
        st.sampled_from(["tracestate", "baggage", "task"]),
        st.sampled_from(["a=1", "", "a=1,b=2", "nonsense;"]),
    ),
)
def test_a_message_is_read_as_the_propagators_would(
    traceparent: object, others: dict[str, str]
) -> None:
    request = Request({"traceparent": traceparent, **others})
    theirs = propagate.extract(request, Context(), REQUEST)
    ours = parent_of(request)
    assert baggage.get_all(ours) == baggage.get_all(theirs)
    assert trace.get_current_span(ours).get_span_context() == (
        trace.get_current_span(theirs).get_span_context()
    )
