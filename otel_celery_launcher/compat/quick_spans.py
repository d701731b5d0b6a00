# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: the application's own, at half of their cost.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_quick_spans.py``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace as trace_api
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Tracer, _Span
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util._decorator import _agnosticcontextmanager

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.lazy_span import child_context, new_span
from otel_celery_launcher.compat.span_starter import TracerSnapshot, is_start_the_sdks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

# What a span may never need, made when it is asked for. Of two threads that ask at the
# same time, both get what the first has made.
_PARTS = ("_lock", "_attributes", "_events", "_links")

# An application may have put its own in its place.
_START_AS_CURRENT = Tracer.start_as_current_span


class QuickSpan(_Span):
    """The SDK's span in all but how it is made, and how it ends."""

    has_parts = True  # ``span_fields.contents`` asks for none of them
    _end_time: int | None = None
    front: SpanProcessor  # its only processor when it began

    def __getattr__(self, name: str) -> Any:
        if name == "_lock":
            made: Any = threading.Lock()
        elif name == "_attributes":
            made = _attributes(self, None)
        elif name == "_events":
            made = self._new_events()  # type: ignore[no-untyped-call]
        elif name == "_links":
            made = self._new_links(())
        else:
            raise AttributeError(name)
        return vars(self).setdefault(name, made)

    def end(self, end_time: int | None = None) -> None:
        """End the span; no copy of it is made for its only processor."""
        processors: Any = self._span_processor
        fields = vars(self)
        if processors._span_processors != (self.front,) or "_end_time" in fields:
            super().end(end_time)
            return
        ended = time.time_ns() if end_time is None else end_time
        if "_lock" not in fields:  # nobody has changed it
            if fields.setdefault("_end_time", ended) is not ended:
                super().end(end_time)  # another thread has just ended it, which is said
                return
            if "_lock" in fields:  # a change has begun before: it is part of the span
                with self._lock:
                    pass
        else:
            with self._lock:
                is_ended = "_end_time" in fields
                fields.setdefault("_end_time", ended)
            if is_ended:
                super().end(end_time)
                return
        if "_attributes" in fields:
            self._attributes._immutable = True  # type: ignore[union-attr]
        self.front.on_end(self)


def _attributes(span: QuickSpan, values: Mapping[str, Any] | None) -> Any:
    limits: Any = span._limits
    return BoundedAttributes(
        limits.max_span_attributes,
        values,
        immutable=False,
        max_value_len=limits.max_span_attribute_length,
    )


class _Known(NamedTuple):
    """What is known of a tracer: fields of its spans, None where the SDK starts them."""

    snapshot: TracerSnapshot
    fields: dict[str, Any] | None


class QuickTracer:
    """Starts the spans of one tracer that have a parent in this process.

    Args:
        tracer: The SDK's.
        front: Its only processor, usually; where it is not, no span is started here.
    """

    def __init__(self, tracer: Tracer, front: SpanProcessor) -> None:
        self._tracer = tracer
        self._front = front
        self._known = self._look()

    def _look(self) -> _Known:
        """Look at the tracer; what is known of it is replaced at once, or not at all."""
        snapshot = TracerSnapshot(self._tracer, SpanKind.INTERNAL)
        is_quick = (
            snapshot.is_plain
            and is_start_the_sdks()
            and snapshot.only_processor is self._front
        )
        if not is_quick:
            return _Known(snapshot, None)
        invalid = trace_api.INVALID_SPAN_CONTEXT
        span = new_span(self._tracer, "", invalid, None, SpanKind.INTERNAL, ())
        fields = {
            name: value
            for name, value in vars(span).items()
            if name not in (*_PARTS, "_end_time")
        }
        return _Known(snapshot, {**fields, "front": self._front})

    def start(
        self,
        parent: SpanContext,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None = None,
        links: object = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span | None:
        """Start a span below a valid one; None where ``Tracer.start_span`` has to."""
        known = self._known
        if not known.snapshot.is_up_to_date():
            known = self._known = self._look()
        if known.fields is None or links or type(parent) is not SpanContext:
            return None
        context = child_context(parent, self._tracer.id_generator.generate_span_id())
        if not context[3] & trace_api.TraceFlags.SAMPLED:
            return trace_api.NonRecordingSpan(context)
        span: QuickSpan = object.__new__(QuickSpan)
        fields = span.__dict__ = known.fields.copy()
        fields["_name"] = name
        fields["_context"] = context
        fields["_parent"] = parent
        fields["_kind"] = kind
        if not record_exception:
            fields["_record_exception"] = False
        if not set_status_on_exception:
            fields["_set_status_on_exception"] = False
        if attributes:
            fields["_attributes"] = _attributes(span, attributes)
        fields["_start_time"] = time.time_ns() if start_time is None else start_time
        return span


@_agnosticcontextmanager  # for blocks, functions and coroutines
def _current(
    tracer: Tracer,
    name: str,
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    links: Any = (),
    start_time: int | None = None,
    record_exception: bool = True,
    set_status_on_exception: bool = True,
    end_on_exit: bool = True,
) -> Iterator[Span]:
    span = tracer.start_span(
        name=name, context=context, kind=kind, attributes=attributes, links=links,
        start_time=start_time, record_exception=record_exception,
        set_status_on_exception=set_status_on_exception,
    )  # fmt: skip
    try:
        token = contexts.attach(contexts.with_span(span))
        try:
            yield span
        finally:
            contexts.detach(token)
    except Exception as exc:
        if span.is_recording():
            _note(span, exc, record_exception, set_status_on_exception)
        raise
    finally:
        if end_on_exit:
            span.end()


def start_as_current_span(tracer: Tracer) -> Callable[..., Any]:
    """Return a quicker ``Tracer.start_as_current_span``.

    It is what the SDK's is, with one generator where that has two. A generator is needed:
    a block that is left without its end (a soft time limit at the wrong moment) is ended
    when the generator is freed, and an exception in ``__del__`` would be swallowed.
    """

    def start(*arguments: Any, **named: Any) -> Any:
        if (
            not is_start_the_sdks()
            or Tracer.start_as_current_span is not _START_AS_CURRENT
        ):
            return Tracer.start_as_current_span(tracer, *arguments, **named)
        return _current(tracer, *arguments, **named)

    return start


def _note(span: Span, error: Exception, records: bool, sets: bool) -> None:
    """Record the exception that ends a block, as ``trace.use_span`` does."""
    if records:
        span.record_exception(error)
    if sets:
        text = f"{type(error).__name__}: {error}"
        span.set_status(Status(StatusCode.ERROR, text))
