"""The trace context of a message, compared with the propagators."""

from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context as Request
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_celery_launcher.compat.span_fields import valid_context
from otel_celery_launcher.tasks.propagation import (
    REQUEST,
    W3C_FIELDS,
    parent_of,
    w3c_fields,
)


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


@given(
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    flags=st.integers(0, 255),
    state=st.sampled_from([None, TraceState([("vendor", "a"), ("other", "b=c")])]),
)
def test_the_fields_are_those_of_the_propagator(
    trace_id: int, span_id: int, flags: int, state: TraceState | None
) -> None:
    context = SpanContext(trace_id, span_id, False, TraceFlags(flags), state)
    written: dict[str, str] = {}
    within = trace.set_span_in_context(NonRecordingSpan(context))
    propagator = TraceContextTextMapPropagator()
    propagator.inject(written, within)
    assert w3c_fields(context) == written
    assert written.keys() <= propagator.fields <= W3C_FIELDS


def test_ids_of_an_applications_own_generator_have_any_length() -> None:
    context = valid_context(1, 2**70, TraceFlags(1), is_remote=False)
    assert w3c_fields(context) == {
        "traceparent": f"00-{1:032x}-{2**70:016x}-01",
    }
