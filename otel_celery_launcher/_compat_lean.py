# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: one that is copied, and ends unheard.

What ``_compat.py`` says of itself holds here; the tests are in the same file.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace as trace_api
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Tracer, _Span
from opentelemetry.trace import StatusCode

from otel_celery_launcher._compat_spans import FLAGS, valid_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import Span

# What a child's flags take over from its parent's; older SDKs know one flag.
_KEPT_FLAGS = trace_api.TraceFlags.SAMPLED | getattr(
    trace_api.TraceFlags, "RANDOM_TRACE_ID", 0
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


class Pattern:
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
        # Older SDKs log under it, and a log handler may look at the span.
        is_reentrant = isinstance(span._attributes._lock, type(threading.RLock()))
        self._new_lock = threading.RLock if is_reentrant else threading.Lock
        most = span._attributes.maxlen
        self._most_attributes = 2**31 if most is None else most

    @classmethod
    def of(cls, tracer: Tracer) -> Pattern | None:
        """Return the pattern; None where long values would have to be cut."""
        context = trace_api.INVALID_SPAN_CONTEXT
        span = new_span(tracer, "", context, None, trace_api.SpanKind.INTERNAL, ())
        is_cut = cast("BoundedAttributes", span._attributes).max_value_len is not None
        return None if is_cut else cls(tracer, span)

    def span(
        self,
        parent: trace_api.SpanContext,
        name: str,
        kind: trace_api.SpanKind,
        attributes: dict[str, Any],
    ) -> LeanSpan | None:
        """Return a span that has started; its locks are its own.

        Args:
            parent: Valid, sampled.
            name: Of the span.
            kind: Of the span.
            attributes: What it starts with; the span's from now on.

        Returns:
            None where some of the attributes would have to be left out.
        """
        if len(attributes) >= self._most_attributes:  # one comes at the end
            return None
        found = self._attributes.copy()
        found["_dict"], found["_lock"] = attributes, self._new_lock()
        bounded: BoundedAttributes = object.__new__(BoundedAttributes)
        bounded.__dict__ = found
        fields = self._span.copy()
        fields["_name"], fields["_kind"], fields["_parent"] = name, kind, parent
        fields["_context"] = child_context(parent, self._new_id())
        fields["_lock"], fields["_attributes"] = threading.Lock(), bounded
        fields["_start_time"] = time.time_ns()
        span: LeanSpan = object.__new__(LeanSpan)
        span.__dict__ = fields
        return span


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
