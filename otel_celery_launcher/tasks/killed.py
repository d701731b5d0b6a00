# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that ended with their process: killed, over the hard limit, terminated, lost.

The worker's main process polls the records of its pool children (``ipc/in_flight.py``).
A run whose process is dead gets its span here (``killed_span``): as an error, with the
ids that it had from its start. Celery's signals about the task give the reason. They
are not enough to detect the end, since Celery sends none for some ends
(``reject_on_worker_lost``), so the death of the process decides.

Runs in the worker's main process.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan

from otel_celery_launcher.compat.contexts import context_with_only
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.in_flight import InFlightRun, recorded_id
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.tasks.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_celery_launcher.compat.celery_worker import EndedChild
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.in_flight import Reason
    from otel_celery_launcher.ipc.process_claim import ProcessClaim

# How long a dead process's run waits for Celery's word on it.
WITNESS_SECONDS = 1.0

# Reasons kept for tasks whose run this worker may never see; the oldest go first.
REASONS_KEPT = 1000


class KilledRuns:
    """Ends the spans of runs whose process is dead.

    Args:
        counters: The shared page with the records of runs.
        main: Which process is the main one: it alone judges.
        start_of: Returns the start of a run of a request, as its process would have
            recorded it; None if nothing is to be said of it.
        end: Ends the span of a run: run, nanoseconds since the epoch, and what Celery
            said of its end.
    """

    def __init__(
        self,
        counters: Counters,
        main: ProcessClaim,
        start_of: Callable[[Any], bytes | None],
        end: Callable[[InFlightRun, int, Reason | None], None],
    ) -> None:
        self._counters = counters
        self._start_of = start_of
        self._end = end
        self._unrecorded: list[InFlightRun] = []
        self._reasons: OrderedDict[str, Reason] = OrderedDict()
        self._dead_since: dict[bytes, tuple[float, int]] = {}  # frame: when
        self._ended: OrderedDict[str, bytes] = OrderedDict()  # frames, by task id
        self._main = main

    def connect(self) -> None:
        """Listen to what Celery says in the main process (launcher)."""
        signals.task_failure.connect(self._task_failure, weak=False)
        signals.task_revoked.connect(self._task_revoked, weak=False)

    def poll(self, *, is_end: bool = False) -> None:
        """Look at all records; called by the main process's timer, and at its end."""
        if not self._main.is_this():
            return
        for record in self._counters.in_flight_records():
            run = record.read()
            if run is not None and (is_end or not run.is_alive):
                self._judge(run, record.clear, is_end=is_end)
        for run in list(self._unrecorded):
            self._judge(run, partial(self._unrecorded.remove, run), is_end=is_end)

    def _judge(
        self, run: InFlightRun, forget: Callable[[], None], *, is_end: bool
    ) -> None:
        """End a run whose process is dead, once Celery has said why or has had its time."""
        now = (time.monotonic(), time.time_ns())
        since, ended = self._dead_since.setdefault(run.frame, now)
        has_reason = run.task_id in self._reasons
        if is_end or has_reason or now[0] - since >= WITNESS_SECONDS:
            del self._dead_since[run.frame]
            forget()
            self._keep_ended(run)
            self._end(run, ended, self._reasons.pop(run.task_id, None))

    def child_ended(self, child: EndedChild) -> None:
        """Note the run that a process has accepted, and died before it recorded it.

        Such as one that is killed while it decodes a large message. Called before the
        record of the process can become another's.
        """
        if not child.requests or not self._main.is_this():
            return
        known = self._counters.last_run_of(child.pid)
        if known is None:
            return
        last, is_running = known
        if is_running:  # a batch runs for many requests
            return
        for request in child.requests:
            is_recorded = recorded_id(text_of(request.id)) == last
            frame = None if is_recorded else self._start_of(request)
            if frame is not None:
                run = InFlightRun(child.pid, request.id, frame, child.slot)
                self._unrecorded.append(run)

    def context_of(self, task_id: object) -> Context | None:
        """Return the context of a killed run, for Celery's handling of its failure.

        Args:
            task_id: Id of the task; any value that is not a text has no run.
        """
        if not isinstance(task_id, str) or not self._main.is_this():
            return None
        frame = self._ended.get(task_id)
        if frame is None:
            records = self._counters.in_flight_records()
            runs = (*(record.read() for record in records), *self._unrecorded)
            frame = next((r.frame for r in runs if r and r.task_id == task_id), None)
        if frame is None:
            return None
        try:
            span = read_span(Resource.get_empty(), frame)
        except FrameError:  # of a child whose memory was damaged
            return None
        context = span.get_span_context()
        return None if context is None else context_with_only(NonRecordingSpan(context))

    def _keep_ended(self, run: InFlightRun) -> None:
        self._ended[run.task_id] = run.frame
        while len(self._ended) > REASONS_KEPT:
            self._ended.popitem(last=False)

    def _keep(self, task_id: str | None, reason: Reason) -> None:
        if task_id is None or not self._main.is_this():
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
