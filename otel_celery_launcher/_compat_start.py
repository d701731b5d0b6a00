# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's tracers: cheaper starts of spans.

What ``_compat.py`` says of itself holds here; the tests are in the same file.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace as trace_api
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import SpanProcessor, Tracer, _Span
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import StatusCode

from otel_celery_launcher._compat_spans import FLAGS, valid_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

_SAMPLED = trace_api.TraceFlags.SAMPLED

# What a child's flags take over from its parent's; older SDKs know one flag.
_KEPT_FLAGS = _SAMPLED | getattr(trace_api.TraceFlags, "RANDOM_TRACE_ID", 0)


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
        self._seen = _Seen(tracer)

    def start(
        self,
        name: str,
        context: Context | None,
        kind: trace_api.SpanKind,
        attributes: Callable[[], dict[str, Any]],
        links: Sequence[trace_api.Link] = (),
    ) -> trace_api.Span:
        """Start a span; ``attributes`` makes what it starts with."""
        seen = self._look()
        if seen.is_watched:
            return self._tracer.start_span(name, context, kind, attributes(), links)
        span: trace_api.Span | None = None
        if seen.follows_parent:
            span = self._sampled_child(name, context, kind, links)
        if span is None:
            span = self._tracer.start_span(name, context, kind, None, links)
        if isinstance(span, _Span):
            found, bounded = attributes(), cast("BoundedAttributes", span._attributes)
            is_limited = bounded.max_value_len is not None or (
                bounded.maxlen is not None and bounded.maxlen < len(found)
            )
            if is_limited:
                span.set_attributes(found)
            else:
                bounded._dict.update(found)
        return span

    def start_child(
        self,
        parent: trace_api.SpanContext,
        name: str,
        kind: trace_api.SpanKind,
        attributes: dict[str, Any],
    ) -> LeanSpan | None:
        """Start a span below a sampled one, nearly all of it by copying another span.

        Args:
            parent: Valid.
            name: Of the span.
            kind: Of the span.
            attributes: What it starts with; the span's from now on.

        Returns:
            None where somebody would have to be asked: use ``start``.
        """
        pattern = self._look().pattern
        if (
            pattern is None
            or not parent.trace_flags & _SAMPLED
            or len(attributes) > pattern.most_attributes
        ):
            return None
        return pattern.span(parent, name, kind, attributes)

    @property
    def only_processor(self) -> object | None:
        """The span processor, where there is one."""
        return self._look().only_processor

    def _look(self) -> _Seen:
        """Look at the tracer again, where an application may have changed it."""
        if not self._seen.is_up_to_date():
            self._seen = _Seen(self._tracer)
        return self._seen

    def _sampled_child(
        self,
        name: str,
        context: Context | None,
        kind: trace_api.SpanKind,
        links: Sequence[trace_api.Link],
    ) -> Span | None:
        """Start a child of a sampled span: what is left of ``Tracer.start_span`` for it."""
        parent = trace_api.get_current_span(context).get_span_context()
        if not (parent.is_valid and parent.trace_flags & _SAMPLED):
            return None
        tracer = cast("Tracer", self._tracer)
        own = valid_context(
            parent.trace_id,
            tracer.id_generator.generate_span_id(),
            kept_flags(parent.trace_flags),
            parent.trace_state,
            is_remote=False,
        )
        span = _new_span(tracer, name, own, parent, kind, links)
        span.start(parent_context=context)
        return span


class _Seen:
    """What a tracer was when it was looked at last."""

    def __init__(self, tracer: trace_api.Tracer) -> None:
        self._tracer: Any = tracer
        self._sampler = getattr(tracer, "sampler", None)
        self._config = getattr(tracer, "_tracer_config", None)  # since SDK 1.40
        self._resource = getattr(tracer, "resource", None)  # a pool child's is its own
        self._processors = self._processors_now()
        is_one = len(self._processors) == 1
        self.only_processor = self._processors[0] if is_one else None
        self.is_watched = not is_one or not _is_blind(self._sampler)
        self.follows_parent = _follows_parent(tracer)
        ignores_starts = (
            type(self.only_processor).on_start  # type: ignore[attr-defined]
            is SpanProcessor.on_start
            if is_one
            else False
        )
        self.pattern = (
            _Pattern.of(cast("Tracer", tracer))
            if self.follows_parent and not self.is_watched and ignores_starts
            else None
        )

    def _processors_now(self) -> tuple[object, ...]:
        processor = getattr(self._tracer, "span_processor", None)
        return getattr(processor, "_span_processors", ())

    def is_up_to_date(self) -> bool:
        """Return whether it still is: each is replaced, never changed."""
        tracer = self._tracer
        return (
            getattr(tracer, "sampler", None) is self._sampler
            and getattr(tracer, "_tracer_config", None) is self._config
            and getattr(tracer, "resource", None) is self._resource
            and self._processors_now() is self._processors
        )


class _OnDemand:
    """A field that is made when somebody asks for it; by no lock that a fork could hold."""

    def __init__(self, name: str, make: Callable[[Any], Any]) -> None:
        self._name = name
        self._make = make

    def __get__(self, span: Any, owner: object = None) -> Any:
        return vars(span).setdefault(self._name, self._make(span))


class LeanSpan(_Span):
    """A span whose lists of events and links are made when somebody asks for them."""

    _events = _OnDemand("_events", lambda span: span._new_events())
    _links = _OnDemand("_links", lambda span: span._new_links(()))

    def end_as_it_began(
        self, name: str, began: dict[str, Any], changes: dict[str, Any]
    ) -> int:
        """End a span that is what it was at its start, without telling any processor.

        Args:
            name: Its name at its start.
            began: A copy of its attributes at its start.
            changes: Attributes that it ends with.

        Returns:
            When; nanoseconds since the epoch. 0 where it is another by now, or has
            ended: nothing was done.
        """
        fields = vars(self)
        attributes: Any = self._attributes
        with self._lock:
            if (
                self._end_time is not None
                or attributes._dict != began
                or attributes.dropped
                or self._status._status_code is not StatusCode.UNSET
                or self._name is not name
                or "_events" in fields
                or "_links" in fields
            ):
                return 0
            attributes._dict.update(changes)
            self._end_time = ended = time.time_ns()
        return ended


class _Pattern:
    """The fields that all spans of a tracer have in common.

    Args:
        tracer: The tracer.
        span: One of its spans, without attributes, events or links.
    """

    def __init__(self, tracer: Tracer, span: Any) -> None:
        self._new_id = tracer.id_generator.generate_span_id
        self._span = vars(span).copy()
        del self._span["_events"], self._span["_links"]
        self._attributes = vars(span._attributes)
        most = span._attributes.maxlen
        self.most_attributes = 2**31 if most is None else most

    @classmethod
    def of(cls, tracer: Tracer) -> _Pattern | None:
        """Return the pattern; None where long values would have to be cut."""
        context = trace_api.INVALID_SPAN_CONTEXT
        span = _new_span(tracer, "", context, None, trace_api.SpanKind.INTERNAL, ())
        is_cut = cast("BoundedAttributes", span._attributes).max_value_len is not None
        return None if is_cut else cls(tracer, span)

    def span(
        self,
        parent: trace_api.SpanContext,
        name: str,
        kind: trace_api.SpanKind,
        attributes: dict[str, Any],
    ) -> LeanSpan:
        """Return a span that has started; its locks are its own."""
        trace_id, _, _, flags, state, _ = parent  # a tuple by declaration
        found = self._attributes.copy()
        found["_dict"], found["_lock"] = attributes, threading.Lock()
        bounded: BoundedAttributes = object.__new__(BoundedAttributes)
        bounded.__dict__ = found
        fields = self._span.copy()
        fields["_name"], fields["_kind"], fields["_parent"] = name, kind, parent
        fields["_context"] = valid_context(
            trace_id, self._new_id(), kept_flags(flags), state, is_remote=False
        )
        fields["_lock"], fields["_attributes"] = threading.Lock(), bounded
        fields["_start_time"] = time.time_ns()
        span: LeanSpan = object.__new__(LeanSpan)
        span.__dict__ = fields
        return span


def kept_flags(flags: int) -> trace_api.TraceFlags:
    """Return a child's flags by its parent's."""
    return FLAGS[flags & _KEPT_FLAGS]


def _new_span(
    tracer: Tracer,
    name: str,
    context: trace_api.SpanContext,
    parent: trace_api.SpanContext | None,
    kind: trace_api.SpanKind,
    links: Sequence[trace_api.Link],
) -> Span:
    """Return a span that has not started, as ``Tracer.start_span`` makes it."""
    return _Span(
        name=name,
        context=context,
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
