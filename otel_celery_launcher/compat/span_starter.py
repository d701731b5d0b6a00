# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's tracers: cheaper starts of spans.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_span_starter.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import SpanProcessor, Tracer, _Span
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    StaticSampler,
    TraceIdRatioBased,
)

from otel_celery_launcher.compat.lazy_span import SpanTemplate, child_context, new_span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context

_SAMPLED = trace_api.TraceFlags.SAMPLED

_START = Tracer.start_span


def is_start_the_sdks() -> bool:
    """Return whether no application has put its own ``Tracer.start_span`` in its place."""
    return Tracer.start_span is _START


class SpanStarter:
    """Starts spans with attributes of ours: text and numbers that need no cleaning.

    The SDK cleans each value, which takes longer than the rest of a span's start. If no
    sampler or processor reads attributes during the start, they are set all at once
    afterwards; an unsampled span needs none. If the sampler follows the parent's
    decision, it is not called.

    Args:
        tracer: Of any provider.
        kind: Of the spans that are made from a template.
    """

    def __init__(
        self,
        tracer: trace_api.Tracer,
        kind: trace_api.SpanKind = trace_api.SpanKind.CONSUMER,
    ) -> None:
        self._tracer = tracer
        self._kind = kind
        self._snapshot = TracerSnapshot(tracer, kind)

    def start(
        self,
        name: str,
        context: Context | None,
        kind: trace_api.SpanKind,
        attributes: Callable[[], dict[str, Any]],
        links: Sequence[trace_api.Link] = (),
        start_time: int | None = None,
    ) -> trace_api.Span:
        """Start a span; ``attributes`` makes what it starts with."""
        tracer = self._look()
        if tracer.needs_sdk_start or start_time is not None:
            return self._tracer.start_span(
                name, context, kind, attributes(), links, start_time
            )
        span: trace_api.Span | None = None
        if tracer.follows_parent:
            span = self._child(name, context, kind, links)
        if span is None:
            span = self._tracer.start_span(name, context, kind, None, links)
        if isinstance(span, _Span):
            values = attributes()
            bounded: Any = span._attributes
            is_limited = bounded.max_value_len is not None or (
                bounded.maxlen is not None and bounded.maxlen < len(values)
            )
            if is_limited:
                span.set_attributes(values)
            else:
                bounded._dict.update(values)
        return span

    def template_below(self, parent: trace_api.SpanContext) -> SpanTemplate | None:
        """Return the template for spans of the starter's kind below a sampled one.

        Returns:
            None if the parent is not sampled, or a sampler or processor must be called:
            use ``unrecorded_below`` or ``start``.
        """
        return self._look().template if parent[3] & _SAMPLED else None

    def template_of_roots(self) -> SpanTemplate | None:
        """Return the template for spans that begin a trace, which is sampled.

        Returns:
            None if a sampler or processor must be called: use ``start``.
        """
        tracer = self._look()
        return tracer.template if tracer.samples_roots else None

    def unrecorded_below(
        self, parent: trace_api.SpanContext
    ) -> trace_api.NonRecordingSpan | None:
        """Return a span below one that is not sampled.

        Returns:
            None if the parent is sampled, or the sampler must be called.
        """
        if parent[3] & _SAMPLED or not self._look().follows_parent:
            return None
        return trace_api.NonRecordingSpan(self._context_below(parent))

    def has_only(self, processor: object) -> bool:
        """Return whether there is one span processor, and it is this one."""
        snapshot = self._snapshot
        if not snapshot.has_its_processors():
            snapshot = self._look()
        return snapshot.only_processor is processor

    def _look(self) -> TracerSnapshot:
        """Look at the tracer again, where an application may have changed it."""
        if not self._snapshot.is_up_to_date():
            self._snapshot = TracerSnapshot(self._tracer, self._kind)
        return self._snapshot

    def _child(
        self,
        name: str,
        context: Context | None,
        kind: trace_api.SpanKind,
        links: Sequence[trace_api.Link],
    ) -> trace_api.Span | None:
        """Start a span below a valid parent as ``Tracer.start_span`` would."""
        parent = trace_api.get_current_span(context).get_span_context()
        if not parent.is_valid:
            return None
        own = self._context_below(parent)
        if not parent.trace_flags & _SAMPLED:
            return trace_api.NonRecordingSpan(own)
        tracer = cast("Tracer", self._tracer)
        span = new_span(tracer, name, own, parent, kind, links)
        span.start(parent_context=context)
        return span

    def _context_below(self, parent: trace_api.SpanContext) -> trace_api.SpanContext:
        tracer = cast("Tracer", self._tracer)
        return child_context(parent, tracer.id_generator.generate_span_id())


class TracerSnapshot:
    """What a tracer was when it was looked at last."""

    def __init__(self, tracer: trace_api.Tracer, kind: trace_api.SpanKind) -> None:
        self._tracer: Any = tracer
        self._sampler = getattr(tracer, "sampler", None)
        self._config = getattr(tracer, "_tracer_config", None)  # since SDK 1.40
        self._resource = getattr(tracer, "resource", None)  # a pool child's is its own
        self._is_sdk = type(tracer) is Tracer and hasattr(tracer, "_tracer_config")
        self._processors = self._processors_now()
        is_one = len(self._processors) == 1
        self.only_processor = self._processors[0] if is_one else None
        self.needs_sdk_start = not is_one or not _ignores_attributes(self._sampler)
        self.follows_parent = _follows_parent(tracer)
        ignores_starts = is_one and _ignores_starts(self.only_processor)
        # Whether nothing has to be called to start a span below another one.
        self.is_plain = (
            self.follows_parent and not self.needs_sdk_start and ignores_starts
        )
        self.template = (
            SpanTemplate.of(cast("Tracer", tracer), kind) if self.is_plain else None
        )
        self.samples_roots = (
            self.follows_parent
            and is_start_the_sdks()
            and self._sampler._root is ALWAYS_ON  # type: ignore[union-attr]
        )

    def _processors_now(self) -> tuple[object, ...]:
        if self._is_sdk:
            return self._tracer.span_processor._span_processors  # type: ignore[no-any-return]
        processor = getattr(self._tracer, "span_processor", None)
        return getattr(processor, "_span_processors", ())

    def has_its_processors(self) -> bool:
        """Return whether the tracer still has the same span processors."""
        return self._processors_now() is self._processors

    def is_up_to_date(self) -> bool:
        """Return whether the tracer still has these parts; none changes in place."""
        tracer = self._tracer
        if self._is_sdk:  # which is asked at each span
            return (
                tracer.sampler is self._sampler
                and tracer._tracer_config is self._config
                and tracer.resource is self._resource
                and tracer.span_processor._span_processors is self._processors
            )
        return (
            getattr(tracer, "sampler", None) is self._sampler
            and getattr(tracer, "_tracer_config", None) is self._config
            and getattr(tracer, "resource", None) is self._resource
            and self._processors_now() is self._processors
        )


def _ignores_starts(processor: Any) -> bool:
    return type(processor).on_start is SpanProcessor.on_start


def _follows_parent(tracer: object) -> bool:
    """Return whether a tracer samples the children of sampled spans, and no others."""
    sampler: Any = getattr(tracer, "sampler", None)
    metrics = getattr(tracer, "_tracer_metrics", None)  # since SDK 1.40
    config = getattr(tracer, "_tracer_config", None)
    return (
        type(tracer) is Tracer
        and _is_parent_based(sampler)
        and sampler._remote_parent_sampled is ALWAYS_ON
        and sampler._local_parent_sampled is ALWAYS_ON
        and sampler._remote_parent_not_sampled is ALWAYS_OFF
        and sampler._local_parent_not_sampled is ALWAYS_OFF
        and type(metrics).__name__ in ("NoneType", "NoOpTracerMetrics")
        and getattr(config, "is_enabled", True)
    )


def _ignores_attributes(sampler: object) -> bool:
    """Return whether a sampler looks at no attributes: the SDK's own do not."""
    if _is_parent_based(sampler):
        return all(map(_ignores_attributes, vars(sampler).values()))
    return type(sampler) in (StaticSampler, TraceIdRatioBased)


def _is_parent_based(sampler: object) -> bool:
    """Return whether a sampler is ``ParentBased`` or inherits its decision."""
    return (
        isinstance(sampler, ParentBased)
        and type(sampler).should_sample is ParentBased.should_sample
    )
