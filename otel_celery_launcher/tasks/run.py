# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The CONSUMER span of a task's run.

Runs where the task runs, in Celery's signals. The task starts in a context of its own:
that of its message. The previous context is restored at its end, so that a context
which the task leaves attached does not outlive it.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link

from otel_celery_launcher.compat.lazy_span import LazySpan
from otel_celery_launcher.compat.span_fields import context_with_only
from otel_celery_launcher.compat.span_starter import SpanStarter
from otel_celery_launcher.ipc.span_frames import (
    START_BYTES,
    encode_run_start,
    encode_span_start,
)
from otel_celery_launcher.messages import shows_contexts
from otel_celery_launcher.tasks.batches import messages_of, publishes_of
from otel_celery_launcher.tasks.errors import record_error, text_of
from otel_celery_launcher.tasks.propagation import fast_parent, parent_of
from otel_celery_launcher.tasks.waits import take_times

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_celery_launcher.ipc.in_flight import InFlightRecord, ThreadRecords
    from otel_celery_launcher.settings.tasks import TaskSettings
    from otel_celery_launcher.tasks.attributes import Attributes
    from otel_celery_launcher.tasks.waits import Times

# A header by which a message asks for a trace of its own: ``new``.
TRACE_HEADER = "otel_celery_trace"


@dataclass(slots=True)
class Run:
    """A run that has started.

    It is not an attribute of its request, which applications copy, pickle and print.
    """

    request: weakref.ref[Any]
    span: Span
    token: Any  # puts the context from before back
    began: float  # seconds, of the performance counter
    # Start frame to use again when the run ends; b"" if it was shortened, None outside of a
    # pool child.
    frame: bytes | None


class Front(Protocol):
    """The span processor that hands spans to a route: ``telemetry/traces.py``."""

    @property
    def route(self) -> Any:
        """A ``routes.route.Route``."""


class Runs:
    """Starts and ends the spans of runs.

    Args:
        tracer: The tracer of the Celery instrumentation.
        attributes: Makes their names and attributes.
        settings: Which runs start a trace.
        front: Receives the spans if it is the only processor; None without one.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        attributes: Attributes,
        settings: TaskSettings,
        front: Front | None = None,
    ) -> None:
        self._running: dict[int, Run] = {}  # by the identity of its request
        self.record: InFlightRecord | ThreadRecords | None = (
            None  # where tasks run, unless they are recorded nowhere
        )
        self._front = front
        self.change(tracer, attributes, settings)

    def change(
        self, tracer: trace.Tracer, attributes: Attributes, settings: TaskSettings
    ) -> None:
        """Use another tracer, attributes and settings for runs that start later."""
        self._spans = SpanStarter(tracer)
        self._attributes = attributes
        self._settings = settings
        self._has_fast_path = attributes.has_fast_path and not settings.new_traces

    def begin(self, task: Any, arguments: object = ()) -> None:
        """Start the run of a task and make it current.

        Args:
            task: The task.
            arguments: Its positional ones: those of a batch are messages.
        """
        request = task.request
        times = take_times(request.__dict__)
        run = self._begin_fast(task, request, times)
        if run is None:
            run = self._begin_full(task, request, times, arguments)
        self._running[id(request)] = run

    def _forget(self, reference: weakref.ref[Any]) -> None:
        """Forget a run whose request was freed without an end: its id may be reused."""
        for key, run in list(self._running.items()):
            if run.request is reference:
                del self._running[key]

    def _begin_fast(self, task: Any, request: Any, times: Times) -> Run | None:
        """Start a run on the fast path, at half the cost of ``_begin_full``.

        The message must have a ``traceparent`` and no other context, and the sampler
        must follow its flag. Otherwise return None.
        """
        fields = request.__dict__  # of the message; the class has the defaults
        if not self._has_fast_path or fields.get("is_eager") or shows_contexts():
            return None
        if TRACE_HEADER in fields:
            return None
        parent = fast_parent(fields)
        if parent is None:
            return None
        frame = None
        span: Span | None
        if template := self._spans.template_below(parent):
            shared, own = self._attributes.of_fast_run(task, fields, times)
            span = template.span(parent, f"run/{task.name}", shared.attributes, own)
            if span is not None and self.record is not None:
                frame = encode_run_start(span.origin, shared.encoded)
                task_id = fields.get("id")
                if len(frame) <= START_BYTES and type(task_id) is str:
                    self.record.write(shared.pid, task_id, frame)
                else:
                    frame = self._record_start(span, task_id)
        else:
            span = self._spans.unrecorded_below(parent)
        if span is None:
            return None
        token = context_api.attach(context_with_only(span))
        reference = weakref.ref(request, self._forget)
        return Run(reference, span, token, time.perf_counter(), frame)

    def _begin_full(
        self, task: Any, request: Any, times: Times, arguments: object
    ) -> Run:
        # An eager task belongs to the code that calls it.
        parent = None if _is_eager(request) else parent_of(request)
        links: tuple[Link, ...] = ()
        if parent is not None:
            is_new = getattr(request, TRACE_HEADER, None) == "new"
            parent, links = self._place(task.name, parent, is_new=is_new)
        batch = messages_of(task, arguments)
        links += publishes_of(batch)

        def attributes() -> dict[str, Any]:
            values = self._attributes.of_run(task, request, parent, times)
            if batch:
                values["messaging.batch.message_count"] = len(batch)
            return values

        span = self._spans.start(
            self._attributes.run_name(task, request),
            parent,
            trace.SpanKind.CONSUMER,
            attributes,
            links,
        )
        frame = None if parent is None else self._record_start(span, request.id)
        token = context_api.attach(trace.set_span_in_context(span, parent))
        reference = weakref.ref(request, self._forget)
        return Run(reference, span, token, time.perf_counter(), frame)

    def end(self, request: Any, state: str | None) -> float | None:
        """End the run that a request belongs to; return the seconds it took."""
        run = self._running.pop(id(request), None)
        if run is None:
            # A soft time limit may have been raised between its record and its begin.
            if self.record is not None and not _is_eager(request):
                self.record.clear()
            return None
        exc = sys.exc_info()[1] if state is None else None
        try:
            if run.frame is not None and isinstance(
                exc, (SystemExit, KeyboardInterrupt)
            ):
                # The process ends, by a signal or by the task: the main process will
                # know why.
                return None
            if exc is not None:
                record_error(run.span, exc)
            if run.frame is not None and self.record is not None:
                self.record.clear()
            self._end_span(run, {"celery.state": state} if state else {})
        finally:
            context_api.detach(run.token)
        return time.perf_counter() - run.began

    def _end_span(self, run: Run, changes: dict[str, str]) -> None:
        """End a span; if it has not changed, its encoded start is used again."""
        span = run.span
        front = self._front
        if (
            run.frame
            and isinstance(span, LazySpan)
            and front is not None
            and self._spans.only_processor is front
        ):
            hand_over = front.route.hand_over_run
            if hand_over is not None and (ended := span.end_unobserved(changes)):
                hand_over(span.origin.template.resource, run.frame, ended, changes)
                return
        span.set_attributes(changes)
        span.end()

    def _place(
        self, task_name: str, context: Context, *, is_new: bool
    ) -> tuple[Context, tuple[Link, ...]]:
        """Return the context in which a run starts, and its links to its publish.

        A run that starts a trace keeps the baggage. The messaging conventions require a
        link in addition to the parent.
        """
        settings = self._settings
        begins = is_new or (settings.new_traces and settings.new_traces.get(task_name))
        if not (begins or settings.has_messaging_names):
            return context, ()
        publish = trace.get_current_span(context).get_span_context()
        if not publish.is_valid:
            return context, ()
        if begins:
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        return context, (Link(publish),)

    def _record_start(self, span: Span, task_id: object) -> bytes | None:
        """Record a run in flight, where that is done and its span is recorded."""
        if self.record is None or not isinstance(span, ReadableSpan):
            return None
        known = "" if task_id is None else text_of(task_id)
        self.record.write(os.getpid(), known, encode_span_start(span))
        return b""

    def span_of(self, request: Any) -> Span | None:
        """Return the span of the run that a request belongs to, if it goes on."""
        run = self._running.get(id(request))
        return None if run is None or run.request() is not request else run.span


def fail(span: Span, task: Any, einfo: Any) -> None:
    """Mark a run as failed, unless the task expects the exception (``throws``)."""
    exc = einfo.exception if isinstance(einfo, ExceptionInfo) else einfo
    if isinstance(exc, ExceptionWithTraceback):
        exc = exc.exc
    if isinstance(exc, BaseException) and not isinstance(exc, task.throws or ()):
        record_error(span, exc)


def _is_eager(request: Any) -> bool:
    """Return whether the calling code runs the task (``apply``).

    A message's fields could claim it, but the worker sets ``delivery_info`` itself.
    """
    delivery = request.delivery_info
    return type(delivery) is dict and bool(delivery.get("is_eager"))
