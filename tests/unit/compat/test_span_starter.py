"""Starts of spans, compared with the SDK's own."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from otel_celery_launcher.compat import (
    span_starter,
)
from tests.support.spans import (
    SPAN_CONTEXT,
    RecordingProcessor,
    comparable,
    parent_context,
    start_child,
    starter,
)


class Watching(SpanProcessor):
    def __init__(self) -> None:
        self.attributes: list[dict[str, object]] = []

    def on_start(self, span: Span, parent_context: object = None) -> None:
        self.attributes.append(dict(span.attributes or {}))


class Curious(Sampler):
    """Hands on what it was asked about."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def should_sample(self, *arguments: Any, **named: Any) -> SamplingResult:
        attributes = named.get("attributes") or arguments[4]
        self.seen.append(attributes)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "curious"


def start(provider: TracerProvider) -> Span:
    starter = span_starter.SpanStarter(provider.get_tracer("t"))
    kind = trace_api.SpanKind.INTERNAL
    span = starter.start("a", context_api.Context(), kind, lambda: {"a": 1, "b": "x"})
    assert isinstance(span, Span)
    return span


@pytest.mark.parametrize("limits", [None, SpanLimits(max_span_attributes=1)])
def test_attributes_are_there_from_the_start(limits: SpanLimits | None) -> None:
    provider = TracerProvider(shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(RecordingProcessor())
    span = start(provider)
    assert dict(span.attributes or {}) == ({"b": "x"} if limits else {"a": 1, "b": "x"})
    span.set_attribute("b", "y")
    assert (span.attributes or {})["b"] == "y"


def test_who_looks_at_the_start_sees_the_attributes() -> None:
    """A sampler that is not the SDK's own, and an application's processor."""
    sampler, processor = Curious(), Watching()
    start(TracerProvider(shutdown_on_exit=False, sampler=ParentBased(sampler)))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(RecordingProcessor())
    provider.add_span_processor(processor)
    start(provider)
    assert sampler.seen == processor.attributes == [{"a": 1, "b": "x"}]


def test_an_unsampled_span_needs_no_attributes() -> None:
    provider = TracerProvider(shutdown_on_exit=False, sampler=ALWAYS_OFF)
    provider.add_span_processor(RecordingProcessor())
    starter = span_starter.SpanStarter(provider.get_tracer("t"))
    span = starter.start("a", None, trace_api.SpanKind.INTERNAL, lambda: 1 / 0)  # type: ignore[return-value]
    assert not span.is_recording()


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 255])
@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize(
    "sampler",
    [
        None,
        ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
        ParentBased(ALWAYS_ON, remote_parent_not_sampled=ALWAYS_ON),
        ParentBased(ALWAYS_ON, local_parent_not_sampled=ALWAYS_ON),
        ParentBased(TraceIdRatioBased(0.5)),
        ALWAYS_ON,
    ],
    ids=["default", "not remote", "all remote", "all local", "a ratio", "always"],
)
def test_a_child_is_the_one_that_the_tracer_would_start(
    flags: int, is_remote: bool, sampler: Sampler | None
) -> None:
    provider = TracerProvider(shutdown_on_exit=False, sampler=sampler)
    provider.add_span_processor(RecordingProcessor())
    tracer = provider.get_tracer("t", "1", "https://schema")
    context = parent_context(flags, is_remote=is_remote)
    kind, links = trace_api.SpanKind.CONSUMER, [trace_api.Link(SPAN_CONTEXT)]
    theirs = tracer.start_span("a", context, kind, {"k": 1}, links)
    starter = span_starter.SpanStarter(tracer)
    ours = starter.start("a", context, kind, lambda: {"k": 1}, links)
    assert type(ours) is type(theirs)
    assert comparable(ours) == comparable(theirs)


@pytest.mark.parametrize(
    "ours",
    [
        starter(),
        starter(RecordingProcessor(), RecordingProcessor()),
        starter(Watching()),
        starter(RecordingProcessor(), sampler=ParentBased(Curious())),
        starter(
            RecordingProcessor(),
            sampler=ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
        ),
        starter(RecordingProcessor(), span_limits=SpanLimits(max_span_attributes=2)),
        starter(
            RecordingProcessor(), span_limits=SpanLimits(max_span_attribute_length=9)
        ),
    ],
    ids=["nobody", "two", "a watcher", "sampler", "remote", "count", "length"],
)
def test_where_somebody_has_to_be_asked_no_span_is_copied(
    ours: span_starter.SpanStarter,
) -> None:
    context = parent_context(1, is_remote=True)
    parent = trace_api.get_current_span(context).get_span_context()
    assert start_child(ours, parent, "a", {"k": 1, "l": 2}) is None


def test_a_disabled_tracer_starts_nothing() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(RecordingProcessor())
    tracer: Any = provider.get_tracer("t")
    if not hasattr(tracer, "_set_tracer_config"):
        return  # an SDK that cannot
    starter = span_starter.SpanStarter(tracer)

    def is_recording() -> bool:
        context, kind = parent_context(1, is_remote=True), trace_api.SpanKind.CONSUMER
        return starter.start("a", context, kind, dict).is_recording()

    assert is_recording()
    tracer._set_tracer_config(type(tracer._tracer_config)(is_enabled=False))
    assert not is_recording()
