# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: cheaper ways in and out of them.

What ``_compat.py`` says of itself holds here; the tests are in the same file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import Span, Tracer, _Span
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    StaticSampler,
    TraceIdRatioBased,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry import context as context_api
    from opentelemetry.attributes import BoundedAttributes
    from opentelemetry.sdk.trace import ReadableSpan

# What a child's flags take over from its parent's; older SDKs know one flag.
_KEPT_FLAGS = trace_api.TraceFlags.SAMPLED | getattr(
    trace_api.TraceFlags, "RANDOM_TRACE_ID", 0
)


class SpanStarter:
    """Starts spans with attributes of ours: text and numbers that need no cleaning.

    The SDK cleans each value, which takes longer than all else at the start of a span.
    Where nobody looks at attributes until the span has started, they are put in place
    whole; an unsampled span needs none at all. And where the sampler does what the
    parent's did, it need not be asked.

    Args:
        tracer: Of any provider.
    """

    def __init__(self, tracer: trace_api.Tracer) -> None:
        self._tracer = tracer
        self._seen: tuple[object, object] = (None, None)  # sampler, configuration
        self._is_blind = False
        self._follows_parent = False

    def start(
        self,
        name: str,
        context: context_api.Context | None,
        kind: trace_api.SpanKind,
        attributes: Callable[[], dict[str, Any]],
        links: Sequence[trace_api.Link] = (),
    ) -> trace_api.Span:
        """Start a span; ``attributes`` makes what it starts with."""
        if self._is_watched():
            return self._tracer.start_span(name, context, kind, attributes(), links)
        span: trace_api.Span | None = None
        if self._follows_parent:
            span = _sampled_child(
                cast("Tracer", self._tracer), name, context, kind, links
            )
        if span is None:
            span = self._tracer.start_span(name, context, kind, None, links)
        if isinstance(span, Span):
            found, bounded = attributes(), cast("BoundedAttributes", span._attributes)
            is_limited = bounded.max_value_len is not None or (
                bounded.maxlen is not None and bounded.maxlen < len(found)
            )
            if is_limited:
                span.set_attributes(found)
            else:
                bounded._dict.update(found)
        return span

    def _is_watched(self) -> bool:
        """Return whether a sampler or an application's processor sees the start."""
        sampler = getattr(self._tracer, "sampler", None)
        config = getattr(self._tracer, "_tracer_config", None)  # since SDK 1.40
        if self._seen[0] is not sampler or self._seen[1] is not config:
            self._seen, self._is_blind = (sampler, config), _is_blind(sampler)
            self._follows_parent = _follows_parent(self._tracer)
        processor = getattr(self._tracer, "span_processor", None)
        processors = getattr(processor, "_span_processors", ())
        return not self._is_blind or len(processors) != 1


def _sampled_child(
    tracer: Tracer,
    name: str,
    context: context_api.Context | None,
    kind: trace_api.SpanKind,
    links: Sequence[trace_api.Link],
) -> Span | None:
    """Start a child of a sampled span: what is left of ``Tracer.start_span`` for it."""
    parent = trace_api.get_current_span(context).get_span_context()
    if not (parent.is_valid and parent.trace_flags & trace_api.TraceFlags.SAMPLED):
        return None
    span = _Span(
        name=name,
        context=trace_api.SpanContext(
            parent.trace_id,
            tracer.id_generator.generate_span_id(),
            is_remote=False,
            trace_flags=trace_api.TraceFlags(parent.trace_flags & _KEPT_FLAGS),
            trace_state=parent.trace_state,
        ),
        parent=parent,
        sampler=tracer.sampler,
        resource=tracer.resource,
        span_processor=tracer.span_processor,
        kind=kind,
        links=links,
        instrumentation_info=tracer.instrumentation_info,
        limits=tracer._span_limits,
        instrumentation_scope=tracer._instrumentation_scope,
    )
    span.start(parent_context=context)
    return span


def _follows_parent(tracer: object) -> bool:
    """Return whether a tracer samples each child of a sampled span, and no more."""
    sampler: Any = getattr(tracer, "sampler", None)
    metrics = getattr(tracer, "_tracer_metrics", None)  # since SDK 1.40
    config = getattr(tracer, "_tracer_config", None)
    return (
        type(tracer) is Tracer
        and _is_parent_based(sampler)
        and sampler._remote_parent_sampled is ALWAYS_ON
        and sampler._local_parent_sampled is ALWAYS_ON
        and type(metrics).__name__ in ("NoneType", "NoOpTracerMetrics")
        and getattr(config, "is_enabled", True)
    )


def _is_blind(sampler: object) -> bool:
    """Return whether a sampler looks at no attributes: the SDK's own do not."""
    if _is_parent_based(sampler):
        return all(map(_is_blind, vars(sampler).values()))
    return type(sampler) in (StaticSampler, TraceIdRatioBased)


def _is_parent_based(sampler: object) -> bool:
    """Return whether a sampler asks one of five others; its subclasses do, as a rule."""
    return (
        isinstance(sampler, ParentBased)
        and type(sampler).should_sample is ParentBased.should_sample
    )


def contents(span: ReadableSpan) -> tuple[Any, ...]:
    """Return what a span is made of, once no thread changes it any more.

    Name, context, parent, number of its kind, start, end, number and description of its
    status, attributes, events, links, scope. Its properties would copy them, one by one
    and under locks. How many attributes, events and links were dropped is in their
    ``dropped``.
    """
    return (
        span._name,
        span._context,
        span._parent,
        span._kind._value_,
        span._start_time,
        span._end_time,
        span._status.status_code._value_,
        span._status.description,
        span._attributes,
        span._events,
        span._links,
        span._instrumentation_scope,
    )


def dictionary(attributes: Any) -> dict[str, Any]:
    """Return attributes as the dictionary that the SDK's own kind keeps; not a copy."""
    found = getattr(attributes, "_dict", attributes)
    return found if type(found) is dict else dict(found)
