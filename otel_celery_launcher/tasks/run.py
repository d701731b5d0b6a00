# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The CONSUMER span of a task's run.

Runs where the task runs, in Celery's signals. The task starts in a context of its own:
that of its message. What it leaks ends with it, since the context from before is put back.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from opentelemetry import context as context_api
from opentelemetry import trace

from otel_celery_launcher.exporter.running import RunningTask
from otel_celery_launcher.tasks.broker import destination_name, messaging_system
from otel_celery_launcher.tasks.carriers import parent_of
from otel_celery_launcher.tasks.errors import record_error
from otel_celery_launcher.tasks.waits import waits

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_celery_launcher.exporter.running import RunNote

# Where the run is kept: on the request, which lives as long as the run.
_RUN = "_otel_celery_run"

# Attributes of a request and their names on the span, those of the instrumentor.
_COPIED = (
    ("compression", "celery.compression"),
    ("correlation_id", "messaging.conversation_id"),
    ("eta", "celery.eta"),
    ("expires", "celery.expires"),
    ("hostname", "celery.hostname"),
    ("id", "messaging.message.id"),
    ("origin", "celery.origin"),
    ("reply_to", "celery.reply_to"),
    ("retries", "celery.retries"),
)


@dataclass(slots=True)
class Run:
    """A run that has begun."""

    span: Span
    token: Any  # puts the context from before back
    began: float  # seconds, of the performance counter
    is_noted: bool  # so that it has a span if its process is killed


class Runs:
    """Begins and ends the spans of runs.

    Args:
        tracer: Of the Celery instrumentation.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self.note: RunNote | None = None  # in a pool child, which may be killed

    def begin(self, task: Any) -> None:
        """Start the run of a task and make it current."""
        request = task.request
        # An eager task belongs to the code that calls it.
        parent = None if request.is_eager else parent_of(request)
        span = self._tracer.start_span(
            f"run/{task.name}",
            context=parent,
            kind=trace.SpanKind.CONSUMER,
            attributes=_attributes(task, request),
        )
        is_noted = self._note(span, task) if not request.is_eager else False
        token = context_api.attach(trace.set_span_in_context(span, parent))
        setattr(request, _RUN, Run(span, token, time.perf_counter(), is_noted))

    def end(self, task: Any, state: str | None) -> float | None:
        """End the run of a task; return the seconds it took."""
        run: Run | None = task.request.__dict__.pop(_RUN, None)
        if run is None:
            return None
        exc = sys.exc_info()[1] if state is None else None
        if run.is_noted and isinstance(exc, (SystemExit, KeyboardInterrupt)):
            # The process ends, by a signal or by the task: the main process will know why.
            context_api.detach(run.token)
            return None
        if state:
            run.span.set_attribute("celery.state", state)
        elif exc is not None:
            record_error(run.span, exc)
        if run.is_noted and self.note is not None:
            self.note.clear()
        run.span.end()
        context_api.detach(run.token)
        return time.perf_counter() - run.began

    def _note(self, span: Span, task: Any) -> bool:
        """Note a run; return whether that was done."""
        if self.note is None or not span.is_recording():
            return False
        context, parent = span.get_span_context(), getattr(span, "parent", None)
        self.note.write(
            RunningTask(
                os.getpid(),
                getattr(span, "start_time", None) or time.time_ns(),
                context.trace_id,
                context.span_id,
                parent.span_id if parent is not None else 0,
                int(context.trace_flags),
                task.request.id or "",
                task.name,
            )
        )
        return True

    @staticmethod
    def span_of(request: Any) -> Span | None:
        """Return the span of the run that a request belongs to, if it goes on."""
        run: Run | None = getattr(request, _RUN, None)
        return None if run is None else run.span


def fail(span: Span, task: Any, einfo: Any) -> None:
    """Mark a run as failed, unless the task expects the exception (``throws``)."""
    exc = einfo.exception if isinstance(einfo, ExceptionInfo) else einfo
    exc = getattr(exc, "exc", None) or exc  # billiard's ExceptionWithTraceback
    if isinstance(exc, BaseException) and not isinstance(exc, task.throws or ()):
        record_error(span, exc)


def _attributes(task: Any, request: Any) -> dict[str, Any]:
    """Return what is known at the start, for samplers, too."""
    found = {
        "celery.action": "run",
        "celery.task_name": task.name,
        "messaging.system": messaging_system(task.app),
        "process.pid": os.getpid(),
    }
    for key, name in _COPIED:
        if value := getattr(request, key, None):
            found[name] = value
    limits = request.timelimit
    if limits and any(limits):
        found["celery.timelimit"] = [
            "" if each is None else str(each) for each in limits
        ]
    delivery = request.delivery_info
    if delivery:
        found["celery.delivery_info"] = str(delivery)
        routing_key = delivery.get("routing_key")
        if routing_key:
            found["messaging.destination"] = routing_key
            found["messaging.destination.name"] = destination_name(
                delivery.get("exchange") or "", routing_key
            )
        if delivery.get("redelivered"):
            found["celery.redelivered"] = True
    if not request.is_eager:
        found.update(waits(request, time.time()))
    return found
