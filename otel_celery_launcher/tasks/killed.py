# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that ended with their process: killed, over the hard limit, terminated, lost.

The worker's main process looks at the notes of its pool children (``ipc/in_flight.py``).
A run whose process is dead gets its span here, as an error, with the identity it had from
its start. What Celery says of the task at about the same time is the reason; there are
ends of which it says nothing (``reject_on_worker_lost``), so the dead process is the
judge, and Celery's signals are only its witnesses.

Runs in the worker's main process.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan

from otel_celery_launcher.compat.span_fields import only
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.tasks.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.in_flight import RunningTask
    from otel_celery_launcher.ipc.killed_span import Reason

# How long a dead process's run waits for Celery's word on it.
WITNESS_SECONDS = 1.0

# Words on tasks that never ran here.
REASONS_KEPT = 1000


class LostRuns:
    """Ends the spans of runs whose process is dead.

    Args:
        counters: The shared page with the notes.
        end: Ends the span of a run: slot, run, nanoseconds since the epoch, and what
            Celery said of its end.
    """

    def __init__(
        self,
        counters: Counters,
        end: Callable[[int, RunningTask, int, Reason | None], None],
    ) -> None:
        self._counters = counters
        self._end = end
        self._reasons: OrderedDict[str, Reason] = OrderedDict()
        self._seen_dead: dict[bytes, tuple[float, int]] = {}  # frame: when
        self._ended: OrderedDict[str, bytes] = OrderedDict()  # frames, by task id
        self._owner = os.getpid()

    def connect(self) -> None:
        """Listen to what Celery says in the main process (launcher)."""
        signals.task_failure.connect(self._task_failure, weak=False)
        signals.task_revoked.connect(self._task_revoked, weak=False)

    def own(self) -> None:
        """Make this process the one that judges."""
        self._owner = os.getpid()

    def poll(self, *, is_end: bool = False) -> None:
        """Look at all notes; called by the main process's timer, and at its end."""
        if self._owner != os.getpid():
            return
        for slot, note, is_gone in self._counters.run_notes():
            task = note.read()
            if task is None or not (is_gone or is_end or not task.is_alive):
                continue
            first = (time.monotonic(), time.time_ns())
            since, ended = self._seen_dead.setdefault(task.frame, first)
            is_told = task.task_id in self._reasons
            if is_end or is_told or first[0] - since >= WITNESS_SECONDS:
                del self._seen_dead[task.frame]
                note.clear()
                self._keep_ended(task)
                self._end(slot, task, ended, self._reasons.pop(task.task_id, None))

    def context_of(self, task_id: object) -> Context | None:
        """Return the context of a killed run, for what Celery does because of its end.

        Args:
            task_id: Of the task. None is nobody's.
        """
        if not isinstance(task_id, str) or self._owner != os.getpid():
            return None
        frame = self._ended.get(task_id)
        if frame is None:
            tasks = (note.read() for _, note, _ in self._counters.run_notes())
            frame = next((t.frame for t in tasks if t and t.task_id == task_id), None)
        if frame is None:
            return None
        try:
            span = read_span(Resource.get_empty(), frame)
        except FrameError:  # of a child whose memory was damaged
            return None
        context = span.get_span_context()
        return None if context is None else only(NonRecordingSpan(context))

    def _keep_ended(self, task: RunningTask) -> None:
        self._ended[task.task_id] = task.frame
        while len(self._ended) > REASONS_KEPT:
            self._ended.popitem(last=False)

    def _keep(self, task_id: str | None, reason: Reason) -> None:
        if task_id is None or self._owner != os.getpid():
            return
        self._reasons[task_id] = {**self._reasons.get(task_id, {}), **reason}
        while len(self._reasons) > REASONS_KEPT:
            self._reasons.popitem(last=False)

    def _task_failure(
        self, task_id: str | None = None, exception: Any = None, **_: Any
    ) -> None:
        kind = type(exception)
        self._keep(
            task_id,
            {
                "error.type": f"{kind.__module__}.{kind.__qualname__}",
                "text": text_of(exception),
            },
        )

    def _task_revoked(
        self, request: Any = None, terminated: Any = None, signum: Any = None, **_: Any
    ) -> None:
        if terminated:
            self._keep(
                getattr(request, "id", None),
                {
                    "error.type": "billiard.exceptions.Terminated",
                    "text": f"terminated by {signum}",
                    "celery.terminated.signal": str(signum),
                },
            )
