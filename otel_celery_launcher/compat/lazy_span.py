# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: a lazy span, which is made on first access.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_lazy_span.py``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import Tracer, _Span

from otel_celery_launcher.compat.span_fields import FLAGS, Lazy, valid_context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.attributes import BoundedAttributes
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

# Flags that a child inherits from its parent; older SDKs know only one flag.
_KEPT_FLAGS = trace_api.TraceFlags.SAMPLED | getattr(
    trace_api.TraceFlags, "RANDOM_TRACE_ID", 0
)


class SpanStart(NamedTuple):
    """The start values of a span, which are all it has unless code changes it."""

    template: SpanTemplate
    name: str
    context: trace_api.SpanContext
    parent: trace_api.SpanContext | None
    start: int  # nanoseconds since the epoch
    shared: Mapping[str, Any]  # attributes, shared with other spans
    encoded: bytes  # what is shared, as of ``span_frames.encode_shared``
    own: Mapping[str, Any]  # attributes, after these


class LazySpan(Lazy, _Span):
    """A span that has only its context until code accesses any other attribute.

    The spans of most runs are never accessed.
    """

    origin: SpanStart

    def materialize(self) -> Span:
        """Return the span that ``Tracer.start_span`` would have made."""
        fields = vars(self)
        fields.setdefault("_end_time", None)  # from here on it does not end unobserved
        return self.origin.template.materialize(self.origin, fields.get("changes", {}))

    def end_unobserved(self, changes: dict[str, Any]) -> tuple[SpanStart, int] | None:
        """End a span that was never accessed, without calling a processor.

        Args:
            changes: Attributes to add at its end.

        Returns:
            What it was made of, and the time of its end in nanoseconds since the epoch.
            None if the span has been accessed; it is then not ended.
        """
        fields = vars(self)
        if "_end_time" in fields:
            return None
        fields["changes"] = changes
        ended = time.time_ns()
        if fields.setdefault("_end_time", ended) is not ended:
            return None
        return fields["origin"], ended


class SpanTemplate:
    """What all spans of one kind of a tracer have in common.

    Args:
        tracer: The tracer.
        kind: Of the spans.
        most_attributes: How many a span may have; None for any number.
    """

    def __init__(
        self, tracer: Tracer, kind: trace_api.SpanKind, most_attributes: int | None
    ) -> None:
        self._tracer = tracer
        self._kind = kind
        self._ids = tracer.id_generator
        self._new_id = tracer.id_generator.generate_span_id
        self._root_flags = _root_flags(tracer)
        self._most_attributes = 2**31 if most_attributes is None else most_attributes
        self.kind: int = kind.value
        self.resource: Resource = tracer.resource
        self.scope: InstrumentationScope = tracer._instrumentation_scope

    @classmethod
    def of(cls, tracer: Tracer, kind: trace_api.SpanKind) -> SpanTemplate | None:
        """Return the template; None where long values would have to be cut."""
        span = new_span(tracer, "", trace_api.INVALID_SPAN_CONTEXT, None, kind, ())
        bounded = cast("BoundedAttributes", span._attributes)
        if bounded.max_value_len is not None:
            return None
        return cls(tracer, kind, bounded.maxlen)

    def span(
        self,
        parent: trace_api.SpanContext | None,
        name: str,
        shared: Mapping[str, Any],
        encoded: bytes,
        own: Mapping[str, Any],
    ) -> LazySpan | None:
        """Return a span that has started.

        Args:
            parent: A valid, sampled parent; None begins a trace, which is sampled.
            name: Name of the span.
            shared: Attributes that other spans share; never changed.
            encoded: The same, as of ``span_frames.encode_shared``.
            own: Further attributes; never changed.

        Returns:
            The span, or None if it would have too many attributes.
        """
        if len(shared) + len(own) >= self._most_attributes:  # one comes at the end
            return None
        if parent is None:
            context = valid_context(
                self._ids.generate_trace_id(),
                self._new_id(),
                self._root_flags,
                is_remote=False,
            )
        else:
            context = child_context(parent, self._new_id())
        start = time.time_ns()
        fields = (self, name, context, parent, start, shared, encoded, own)
        origin = tuple.__new__(SpanStart, fields)  # as SpanStart(…) at half of its cost
        span: LazySpan = object.__new__(LazySpan)
        span.__dict__ = {"_context": context, "origin": origin}
        return span

    def materialize(self, origin: SpanStart, changes: Mapping[str, Any]) -> Span:
        """Return the SDK's span, as it began and with the attributes it ended with."""
        span: Any = new_span(
            self._tracer, origin.name, origin.context, origin.parent, self._kind, ()
        )
        span._start_time = origin.start
        span._attributes._dict.update({**origin.shared, **origin.own, **changes})
        return cast("Span", span)


def _root_flags(tracer: Tracer) -> trace_api.TraceFlags:
    """Return the flags of a sampled span that begins a trace."""
    is_random = getattr(tracer.id_generator, "is_trace_id_random", bool)()
    return FLAGS[_KEPT_FLAGS if is_random else trace_api.TraceFlags.SAMPLED]


def child_context(parent: trace_api.SpanContext, new_id: int) -> trace_api.SpanContext:
    """Return the context of a span below a valid one, sampled as that is."""
    trace_id, _, _, flags, state, _ = parent  # a tuple by declaration
    kept = FLAGS[flags & _KEPT_FLAGS]
    return valid_context(trace_id, new_id, kept, state, is_remote=False)


def new_span(
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
