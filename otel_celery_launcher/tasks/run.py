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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, NonRecordingSpan

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.span_starter import SpanStarter
from otel_celery_launcher.ipc.span_frames import (
    START_BYTES,
    encode_run_start,
    encode_span_start,
)
from otel_celery_launcher.messages import shows_contexts
from otel_celery_launcher.tasks.batches import messages_of, publishes_of, request_of
from otel_celery_launcher.tasks.ending import hand_over
from otel_celery_launcher.tasks.errors import error_type_of, record_error, text_of
from otel_celery_launcher.tasks.propagation import fast_parent, parent_of
from otel_celery_launcher.tasks.waits import take_times, waits, waits_now

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span

    from otel_celery_launcher.compat.lazy_span import LazySpan
    from otel_celery_launcher.ipc.in_flight import Record
    from otel_celery_launcher.settings.tasks import TaskSettings
    from otel_celery_launcher.tasks.attributes import Attributes
    from otel_celery_launcher.tasks.ending import Front
    from otel_celery_launcher.tasks.metrics import TaskMetrics
    from otel_celery_launcher.tasks.waits import Times

# A header by which a message asks for a trace of its own: ``new``.
TRACE_HEADER = "otel_celery_trace"


_ENDS_A_PROCESS = (SystemExit, KeyboardInterrupt)


@dataclass(slots=True)
class Run:
    """A run that has started.

    It is not an attribute of its request, which applications copy, pickle and print.
    """

    request: weakref.ref[Any]
    span: Span
    token: Any  # puts the context from before back
    began: float  # seconds, of the performance counter
    # Start frame to use again when the run ends; b"" if it was shortened or the run has no
    # span, None outside of a pool child.
    frame: bytes | None
    waits: dict[str, float] = field(default_factory=dict)  # seconds
    error_type: str = ""  # of the exception that the task failed with
    is_sampled: bool = True
    is_eager: bool = False


class Runs:
    """Starts and ends the spans of runs.

    Args:
        tracer: The tracer of the Celery instrumentation.
        attributes: Makes their names and attributes.
        settings: Which runs start a trace.
        front: Receives the spans if it is the only processor; None without one.
        metrics: Records all runs, sampled or not; None without metrics.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        attributes: Attributes,
        settings: TaskSettings,
        front: Front | None = None,
        metrics: TaskMetrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._running: dict[int, Run] = {}  # by the identity of its request
        self._freed = self._forget
        # Where tasks run, unless they are recorded nowhere.
        self.record: Record | None = None
        # That of the contrib instrumentor, where the application's provider makes it.
        self.histogram: Histogram | None = None
        self._front = front
        self.change(tracer, attributes, settings)

    def change(
        self, tracer: trace.Tracer, attributes: Attributes, settings: TaskSettings
    ) -> None:
        """Use another tracer, attributes and settings for runs that start later."""
        self._spans = SpanStarter(tracer)
        self._attributes = attributes
        self._settings = settings
        self._has_fast_path = (
            attributes.has_fast_path
            and not settings.new_traces
            and not shows_contexts()
        )

    def begin(self, task: Any = None, args: object = (), **_: Any) -> None:
        """Start the run of a task and make it current: receives ``task_prerun``.

        Args:
            task: The task.
            args: Its positional arguments: those of a batch are messages.
        """
        if task is None:
            return
        request = task.request
        times = take_times(request.__dict__)
        run = self._begin_fast(task, request, times) if self._has_fast_path else None
        if run is None:
            run = self._begin_full(task, request, times, args)
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
        if TRACE_HEADER in fields or fields.get("is_eager"):
            return None
        parent = fast_parent(fields)
        if parent is None:
            return None
        frame = None
        span: Span | None
        durations: dict[str, float] = {}
        if template := self._spans.template_below(parent):
            durations = waits_now(times, fields)
            shared, own = self._attributes.of_fast_run(task, fields, durations)
            span = template.span(
                parent, f"run/{task.name}", shared.attributes, shared.encoded, own
            )
            if span is not None and self.record is not None:
                frame = self._record_lazy(span, shared.pid, fields.get("id"))
        else:
            span = self._spans.unrecorded_below(parent)
            if self._metrics is not None:
                durations = waits_now(times, fields)
                frame = self._record_counted(task, fields)
        if span is None:
            return None
        token = contexts.attach(contexts.context_with_only(span))
        return Run(
            weakref.ref(request, self._freed), span, token, time.perf_counter(), frame,
            durations, "", template is not None,
        )  # fmt: skip

    def _begin_full(
        self,
        task: Any,
        request: Any,
        times: Times,
        arguments: object,
    ) -> Run:
        # An eager task belongs to the code that calls it.
        parent = None if _is_eager(request) else parent_of(request)
        links: tuple[Link, ...] = ()
        if parent is not None:
            self._count_orphan(task, parent)
            parent, links = self._place(task.name, parent, request)
        durations = waits_now(times, request.__dict__)
        batch = messages_of(task, arguments)
        links += publishes_of(batch)

        def attributes() -> dict[str, Any]:
            values = self._attributes.of_run(task, request, parent, durations)
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
        frame = None
        if parent is not None:
            frame = self._record_start(span, task, request)
        token = contexts.attach(trace.set_span_in_context(span, parent))
        reference = weakref.ref(request, self._freed)
        run = Run(reference, span, token, time.perf_counter(), frame, durations)
        run.is_sampled = span.get_span_context().trace_flags.sampled
        run.is_eager = parent is None
        return run

    def end(self, task: Any = None, state: str | None = None, **_: Any) -> None:
        """End the run of a task: receives ``task_postrun``.

        Args:
            task: The task.
            state: Celery's state; None while an exception ends the process.
        """
        if task is None:
            return
        request = task.request
        run = self._running.pop(id(request), None)
        if run is None:
            # A soft time limit may have been raised between its record and its begin.
            if self.record is not None and not _is_eager(request):
                self.record.clear()
            return
        exc = sys.exc_info()[1] if state is None else None
        try:
            if run.frame is not None and isinstance(exc, _ENDS_A_PROCESS):
                # By a signal or by the task: the main process will know why.
                return
            if exc is not None:
                record_error(run.span, exc)
            seconds = time.perf_counter() - run.began
            record = None if run.frame is None else self.record
            # A process may be killed anywhere here. The record says whether the run was
            # counted, and the route clears it in the moment in which the span leaves.
            in_flight = None if record is None else record.state
            try:
                self._count(run, request, state, task, seconds, in_flight)
                self._end_span(run, {"celery.state": state} if state else {}, in_flight)
            finally:
                if record is not None:
                    record.clear()
        finally:
            contexts.detach(run.token)
        if self.histogram is not None:
            worker = request.hostname or ""
            self.histogram.record(seconds, {"task": task.name, "worker": worker})

    def _count(
        self,
        run: Run,
        request: Any,
        state: str | None,
        task: Any,
        seconds: float,
        in_flight: memoryview | None,
    ) -> None:
        metrics = self._metrics
        if metrics is None or not state:
            return
        if run.is_eager:
            metrics.end_eager_run(task.name, seconds)
            return
        metrics.end_run(
            task,
            request.__dict__.get("delivery_info"),
            state,
            run.error_type,
            seconds,
            run.waits,
            run.span if run.is_sampled else None,
            in_flight,
        )

    def _end_span(
        self, run: Run, changes: dict[str, str], in_flight: memoryview | None
    ) -> None:
        """End a span; if it has not changed, its encoded start is used again."""
        span, front = run.span, self._front
        if type(span) is NonRecordingSpan:
            return
        if run.frame and hand_over(
            front, self._spans, span, run.frame, changes,
            ends_task=True, in_flight=in_flight,
        ):  # fmt: skip
            return
        span.set_attributes(changes)
        if in_flight is None or front is None:
            span.end()
            return
        span_id = span.get_span_context().span_id
        front.in_flight[span_id] = in_flight
        try:
            span.end()
        finally:
            front.in_flight.pop(span_id, None)  # runs without a span share an id

    def _count_orphan(self, task: Any, parent: Context) -> None:
        if self._metrics is not None and not _has_trace(parent):
            self._metrics.count_orphan(task.name)

    def _place(
        self, task_name: str, context: Context, request: Any
    ) -> tuple[Context, tuple[Link, ...]]:
        """Return the context in which a run starts, and its links to its publish.

        A run that starts a trace keeps the baggage. The messaging conventions require a
        link in addition to the parent.
        """
        settings = self._settings
        is_new = getattr(request, TRACE_HEADER, None) == "new"
        begins = is_new or (settings.new_traces and settings.new_traces.get(task_name))
        if not (begins or settings.has_messaging_names):
            return context, ()
        publish = trace.get_current_span(context).get_span_context()
        if not publish.is_valid:
            return context, ()
        if begins:
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        return context, (Link(publish),)

    def _record_start(self, span: Span, task: Any, request: Any) -> bytes | None:
        """Record a run in flight, where that is done."""
        if not isinstance(span, ReadableSpan):
            return self._record_counted(task, request.__dict__)
        return self._record_span(span, request.id)

    def _record_lazy(self, span: LazySpan, pid: int, task_id: object) -> bytes | None:
        """Record a run in flight by what its end needs, too, if that is not too long."""
        frame = encode_run_start(span.origin)
        if self.record is None or type(task_id) is not str or len(frame) > START_BYTES:
            return self._record_span(span, task_id)
        self.record.write(pid, task_id, frame)
        return frame

    def _record_span(self, span: ReadableSpan, task_id: object) -> bytes | None:
        """Record a run in flight by the start of its span, where that is done."""
        if self.record is None:
            return None
        known = "" if task_id is None else text_of(task_id)
        self.record.write(os.getpid(), known, encode_span_start(span))
        return b""

    def _record_counted(self, task: Any, fields: dict[str, Any]) -> bytes | None:
        """Record a run in flight that has no span, where runs are counted."""
        if self.record is None or self._metrics is None:
            return None
        task_id = fields.get("id")
        known = task_id if type(task_id) is str else text_of(task_id or "")
        frame = self._metrics.start_of(task, fields.get("delivery_info"))
        self.record.write(os.getpid(), known, frame)
        return b""

    def start_of_unrecorded(self, message: Any) -> bytes | None:
        """Return the start of a run whose process has died before it recorded it.

        Runs in the worker's main process.

        Args:
            message: The worker's request: ``celery.worker.request.Request``.

        Returns:
            As of ``ipc/in_flight.py``; None if it is neither sampled nor counted.
        """
        task, request = message.task, request_of(message.request_dict)
        times = take_times(request.__dict__)
        parent = parent_of(request)
        parent, links = self._place(task.name, parent, request)
        began = message.time_start
        durations = waits(times, request.__dict__.get("eta"), began)

        def attributes() -> dict[str, Any]:
            values = self._attributes.of_run(task, request, parent, durations)
            return {**values, "process.pid": message.worker_pid}

        span = self._spans.start(
            self._attributes.run_name(task, request),
            parent,
            trace.SpanKind.CONSUMER,
            attributes,
            links,
            int(began * 1e9),
        )
        if isinstance(span, ReadableSpan):
            return encode_span_start(span)
        if self._metrics is None:
            return None
        return self._metrics.start_of(task, request.delivery_info, int(began * 1e9))

    def note_failure(self, request: Any, task: Any, einfo: Any) -> None:
        """Note that a run has failed, unless the task expects the exception."""
        run = self._running.get(id(request))
        if run is None or run.request() is not request:
            return
        exc = _unexpected(task, einfo)
        if exc is None:
            return
        run.error_type = error_type_of(exc)
        if run.span.is_recording():
            record_error(run.span, exc)

    def span_of(self, request: Any) -> Span | None:
        """Return the span of the run that a request belongs to, if it goes on."""
        run = self._running.get(id(request))
        return None if run is None or run.request() is not request else run.span


def _unexpected(task: Any, einfo: Any) -> BaseException | None:
    """Return what a task failed with; None if it expects it (``throws``)."""
    exc = einfo.exception if isinstance(einfo, ExceptionInfo) else einfo
    if isinstance(exc, ExceptionWithTraceback):
        exc = exc.exc
    if isinstance(exc, BaseException) and not isinstance(exc, task.throws or ()):
        return exc
    return None


def _has_trace(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def _is_eager(request: Any) -> bool:
    """Return whether the calling code runs the task (``apply``).

    A message's fields could claim it, but the worker sets ``delivery_info`` itself.
    """
    delivery = request.delivery_info
    return type(delivery) is dict and bool(delivery.get("is_eager"))
