"""Spans and processors of the SDK, for tests of a single module."""

from __future__ import annotations

from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_celery_launcher.compat import lazy_span, span_starter
from otel_celery_launcher.ipc.span_frames import encode_shared

SPAN_CONTEXT = trace_api.SpanContext(1, 2, is_remote=True)
KIND = trace_api.SpanKind.CONSUMER


class RecordingProcessor(SpanProcessor):
    """Keeps the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    @property
    def resources(self) -> list[Resource]:
        return [span.resource for span in self.spans]


def ended_span(name: str = "n", **attributes: Any) -> ReadableSpan:
    return ReadableSpan(
        name,
        trace_api.SpanContext(
            1, 2, is_remote=False, trace_flags=trace_api.TraceFlags(1)
        ),
        resource=Resource({"service.name": "s"}),
        attributes=attributes,
        start_time=1,
        end_time=2,
    )


def starter(*processors: SpanProcessor, **options: Any) -> span_starter.SpanStarter:
    provider = TracerProvider(shutdown_on_exit=False, **options)
    for processor in processors:
        provider.add_span_processor(processor)
    return span_starter.SpanStarter(provider.get_tracer("t", "1", "https://schema"))


def start_child(
    ours: span_starter.SpanStarter,
    parent: trace_api.SpanContext,
    name: str,
    attributes: dict[str, Any],
) -> lazy_span.LazySpan | None:
    """Start a span as the run of a task is started."""
    template = ours.template_below(parent)
    if template is None:
        return None
    return template.span(parent, name, attributes, encode_shared(attributes), {})


def parent_context(flags: int, *, is_remote: bool) -> context_api.Context:
    state = trace_api.TraceState([("vendor", "1")])
    parent = trace_api.SpanContext(5, 6, is_remote, trace_api.TraceFlags(flags), state)
    return trace_api.set_span_in_context(
        trace_api.NonRecordingSpan(parent), context_api.Context()
    )


def comparable(span: trace_api.Span) -> dict[str, object]:
    """Return everything of a span but its id, its time and its locks."""
    if isinstance(span, lazy_span.LazySpan):
        assert [*span.events, *span.links] == []  # which makes all of it
    found = dict(vars(span))
    found.pop("origin", None)
    context = found.pop("_context")
    found["context"] = (context.trace_id, context.trace_flags, context.trace_state)
    for name in ("_start_time", "_lock", "_record_end_metrics"):
        found.pop(name, None)
    for name in ("_attributes", "_events", "_links"):
        found[name] = repr(found.get(name))
    return found
