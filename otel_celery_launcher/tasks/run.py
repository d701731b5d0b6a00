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
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link

from otel_celery_launcher._compat_spans import SpanStarter
from otel_celery_launcher.handoff.frames import encode_start
from otel_celery_launcher.tasks.carriers import parent_of
from otel_celery_launcher.tasks.errors import record_error

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_celery_launcher.exporter.running import RunNote
    from otel_celery_launcher.task_settings import TaskSettings
    from otel_celery_launcher.tasks.attributes import Attributes

# Where the run is kept: on the request, which lives as long as the run.
_RUN = "_otel_celery_run"


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
        attributes: Makes their names and attributes.
        settings: Which of them begin a trace.
    """

    def __init__(
        self, tracer: trace.Tracer, attributes: Attributes, settings: TaskSettings
    ) -> None:
        self._spans = SpanStarter(tracer)
        self._attributes = attributes
        self._settings = settings
        self.note: RunNote | None = None  # in a pool child, which may be killed

    def begin(self, task: Any) -> None:
        """Start the run of a task and make it current."""
        request = task.request
        # An eager task belongs to the code that calls it.
        parent = None if request.is_eager else parent_of(request)
        links: tuple[Link, ...] = ()
        if parent is not None:
            parent, links = self._place(task.name, parent)
        span = self._spans.start(
            self._attributes.run_name(task, request),
            parent,
            trace.SpanKind.CONSUMER,
            lambda: self._attributes.of_run(task, request, parent),
            links,
        )
        is_noted = parent is not None and self._note(span, request.id)
        token = context_api.attach(trace.set_span_in_context(span, parent))
        setattr(request, _RUN, Run(span, token, time.perf_counter(), is_noted))

    def end(self, request: Any, state: str | None) -> float | None:
        """End the run that a request belongs to; return the seconds it took."""
        run: Run | None = request.__dict__.pop(_RUN, None)
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

    def _place(
        self, task_name: str, context: Context
    ) -> tuple[Context, tuple[Link, ...]]:
        """Return the context a run begins in, and its links to its publish.

        A run that begins a trace keeps the baggage. The conventions want a link beside
        the parent.
        """
        settings = self._settings
        begins = settings.new_traces and settings.new_traces.get(task_name)
        if not (begins or settings.has_messaging_names):
            return context, ()
        publish = trace.get_current_span(context).get_span_context()
        if not publish.is_valid:
            return context, ()
        if begins:
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        return context, (Link(publish),)

    def _note(self, span: Span, task_id: object) -> bool:
        """Note a run; return whether that was done."""
        if self.note is None or not isinstance(span, ReadableSpan):
            return False
        self.note.write(os.getpid(), str(task_id or ""), encode_start(span))
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
