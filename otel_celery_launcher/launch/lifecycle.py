# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The life of Celery's processes: when each starts to export, and its last act.

Connected to Celery's signals by the launcher, before the application is imported, so
that our receivers run before the application's own.

worker_init             main process: the pool is known, nothing has forked; its timer
celeryd_after_setup     main process: its own calls to the broker are not traced
worker_ready            main process: pool children and embedded beat have been forked
worker_process_init     pool child, after its fork or spawn (and solo, in main);
                        tasks/discarded.py has a receiver of its own
worker_process_shutdown pool child, before os._exit; prefork only
beat_init               beat, after a detach
beat_embedded_init      the process of `worker -B`, after it closed all descriptors
"""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry.context import Context, attach

from otel_celery_launcher.compat import celery_pools, celery_private, contexts
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.ipc.counter_rows import BEAT_ROW, POOL_ROWS
from otel_celery_launcher.ipc.in_flight import ThreadRecords
from otel_celery_launcher.tasks.instrumentor import record_in_flight_runs
from otel_celery_launcher.tasks.schedule import current_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.telemetry.setup import Telemetry

# How often the main process sends what it holds and looks at the counters.
POLL_SECONDS = 0.5

# How often a pool child without a task sends what it had to keep.
IDLE_SECONDS = 0.1


class Lifecycle:
    """Receivers of Celery's signals; each runs in the process its docstring names.

    Args:
        telemetry: What was set up.
        prepare_spawned_children: Called before the pool is made, in a main process.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        prepare_spawned_children: Callable[[], None] | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._prepare_spawned_children = prepare_spawned_children
        self._forks = True

    def connect(self) -> None:
        """Connect all receivers (launcher, or spawned child)."""
        for signal_, receiver in (
            (signals.worker_init, self._worker_init),
            (signals.celeryd_after_setup, self._set_up),
            (signals.worker_ready, self._worker_ready),
            (signals.worker_process_init, self._child_init),
            (signals.worker_process_shutdown, self._child_shutdown),
            (signals.beat_init, self._beat_init),
            (signals.beat_embedded_init, self._beat_embedded_init),
        ):
            signal_.connect(_guarded(receiver), weak=False)
        self._telemetry.killed_runs.connect()

    def _worker_init(self, sender: Any = None, **_: Any) -> None:
        """Main process: the pool is known, and privileges are dropped."""
        self._telemetry.main.claim()
        # Celery's own modules of a worker are imported by now, and not before.
        from otel_celery_launcher.launch.inspect_status import answer_with

        answer_with(self._telemetry.status)
        celery_private.fail_requests_inside(self._telemetry.killed_runs.context_of)
        if self._prepare_spawned_children is not None:
            self._prepare_spawned_children()
        if self._telemetry.metrics is not None:
            with guarded("the worker's own metrics are missing"):
                self._telemetry.metrics.worker.connect()
            with guarded("the broker's queues are not counted"):
                self._telemetry.tell_of_broker(sender.app)
        with guarded("some killed runs may be missing"):
            self._telemetry.watch_pool(sender.app)
        self._forks = not celery_pools.never_forks(sender.pool_cls)
        self._main_started(forks=True)  # with any pool: `-B` forks beat
        celery_private.add_timer(
            sender.app, "export", POLL_SECONDS, self._poll, self._stopping
        )

    def _set_up(self, **_: Any) -> None:
        """Main process, before it connects: its polling of the broker makes no spans.

        From now on all client calls in this thread are Celery's own. Tasks start in a
        context of their own, and publishes still make their span.
        """
        contexts.suppress_instrumentations_outside_spans()

    def _worker_ready(self, sender: Any = None, **_: Any) -> None:
        """Main process: where tasks run in it, it forks no more, and records them."""
        self._telemetry.advise_on_logs()
        if not self._forks:
            self._main_started(forks=False)
            record_in_flight_runs(ThreadRecords(self._telemetry.counters.claim_record))
        if celery_pools.runs_tasks_in_main_loop(sender.controller.pool_cls):
            self._telemetry.watch_during_tasks()

    def _poll(self) -> None:
        """Main process, from Celery's own timer: no thread of ours."""
        self._telemetry.poll()

    def _stopping(self) -> None:
        """Main process: no timer is called any more, and the pool still sends."""
        with guarded("some spans may be missing"):
            self._telemetry.watch_until_the_end()

    def _main_started(self, *, forks: bool) -> None:
        self._telemetry.main_started()
        route = self._telemetry.route
        route.main_started(forks=forks)
        if route.failure:
            self._telemetry.fall_back_to_inline(route.failure)
            if self._telemetry.route is not route:
                self._telemetry.route.main_started(forks=forks)

    def _child_init(self, **_: Any) -> None:
        """Pool child: its own context, resource, row and record of runs."""
        if not self._is_child():
            return  # solo
        attach(Context())  # not the main process's
        self._telemetry.suppressor.allow_clients_of_tasks()
        slot = celery_private.pool_slot()
        row = POOL_ROWS[slot % len(POOL_ROWS)]
        self._telemetry.set_slot(str(slot))
        self._telemetry.route.child_started(row)
        record_in_flight_runs(self._telemetry.counters.claim_record(slot))
        celery_private.call_while_idle(
            IDLE_SECONDS, self._telemetry.route.child_is_idle
        )

    def _child_shutdown(self, **_: Any) -> None:
        """Pool child: send what is there before ``os._exit``."""
        if self._is_child():
            self._telemetry.close_child()

    def _beat_init(self, **_: Any) -> None:
        """Beat: the process that stays; `worker -B` sends this signal, too."""
        if self._telemetry.settings.role != "beat":
            return
        self._watch_schedule()
        self._telemetry.advise_on_logs()
        self._telemetry.main.claim()
        self._main_started(forks=False)
        # Its look at the schedule, often in a database, is no trace: a publish is.
        contexts.suppress_instrumentations_outside_spans()

    def _beat_embedded_init(self, **_: Any) -> None:
        """``worker -B``: a forked process that SIGTERM ends at once."""
        attach(Context())  # not the main process's
        contexts.suppress_instrumentations_outside_spans()
        self._watch_schedule()
        self._telemetry.set_slot("beat")
        self._telemetry.route.child_started(BEAT_ROW)

        def close_and_die(number: int, _frame: object) -> None:
            self._telemetry.close_child()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, close_and_die)

    def _watch_schedule(self) -> None:
        """Say what beat publishes, and how late (beat's process)."""
        metrics = self._telemetry.metrics
        if metrics is None:
            celery_private.watch_schedule_entries(current_entry)
            return
        metrics.beat.connect()
        celery_private.watch_schedule_entries(current_entry, metrics.beat.publishing)

    def _is_child(self) -> bool:
        return self._telemetry.is_spawned or not self._telemetry.main.is_this()


def _guarded(receive: Callable[..., None]) -> Callable[..., None]:
    """Return a receiver that reports failures: Celery's log is not set up yet."""

    @functools.wraps(receive)
    def receiver(**arguments: Any) -> None:
        with guarded("some spans may be missing"):
            receive(**arguments)

    return receiver
