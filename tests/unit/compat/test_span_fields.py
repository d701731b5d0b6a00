"""What spans are made of, compared with their properties."""

from __future__ import annotations

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import Span, TracerProvider

from otel_celery_launcher.compat import (
    span_fields,
)


def test_contents_are_those_of_the_properties() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    link = trace_api.Link(trace_api.SpanContext(1, 2, is_remote=True))
    span = provider.get_tracer("t").start_span("a", attributes={"k": 1}, links=[link])
    span.add_event("e")
    span.set_status(trace_api.StatusCode.ERROR, "why")
    span.end()
    assert isinstance(span, Span)
    *found, attributes, no_a, events, no_e, links, no_l, scope = span_fields.contents(
        span
    )
    status = (span.status.status_code.value, span.status.description)
    times = (span.start_time, span.end_time)
    expected = [span.name, span.context, span.parent, span.kind.value, *times, *status]
    assert found == expected
    assert attributes == dict(span.attributes or {})
    assert type(attributes) is dict
    assert (tuple(events), tuple(links)) == (span.events, span.links)
    assert scope is span.instrumentation_scope
    assert [no_a, no_e, no_l] == [0, 0, 0]


def test_a_span_context_is_what_its_constructor_makes() -> None:
    for is_remote in (True, False):
        made = span_fields.valid_context(
            5, 6, trace_api.TraceFlags(1), is_remote=is_remote
        )
        assert made == trace_api.SpanContext(
            5, 6, is_remote, trace_api.TraceFlags(1), trace_api.DEFAULT_TRACE_STATE
        )
        assert type(made) is trace_api.SpanContext
        assert made.is_valid
