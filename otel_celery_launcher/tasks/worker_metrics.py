# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of a worker and of beat: tasks, pool, children, connection, schedule.

Runs in the worker's main process, in Celery's loop: the state is looked at once an
interval, in microseconds. Beat's run where its scheduler does.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat import celery_worker
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.metrics.health import put

if TYPE_CHECKING:
    from otel_celery_launcher.compat.celery_worker import EndedChild
    from otel_celery_launcher.metrics.writer import Writer
    from otel_celery_launcher.tasks.metrics import TaskMetrics

# Children whose hard limit was over, and whose end has not been seen yet.
LIMITED_KEPT = 1000

# Between two looks; an interval may be shorter.
LOOK_SECONDS = 5.0

# The values that are looked at are stale after three intervals: ``metrics/reader.py``.


class WorkerMetrics:
    """Records the state of a worker.

    Args:
        writer: Of the main process.
        tasks: Adds to counters and histograms.
        interval: Seconds between two exports.
    """

    def __init__(self, writer: Writer, tasks: TaskMetrics, interval: float) -> None:
        self._writer = writer
        self._tasks = tasks
        self._seconds = min(LOOK_SECONDS, interval)
        self._looked = 0.0
        self._consumer: Any = None
        self._connections = 0
        self._limited: dict[int, None] = {}
        self._oom_kills = _oom_kills()

    def connect(self) -> None:
        """Watch a worker (main process, before its pool is made)."""
        celery_worker.watch_hard_limits(self._limit_is_over)

    def look(self, restarts: int) -> None:
        """Write the state, if it is due; called twice a second.

        Args:
            restarts: How many times the exporter process was replaced.
        """
        now = time.monotonic()
        if self._consumer is None or now - self._looked < self._seconds:
            return
        self._looked = now
        put(self._writer, builtin.RESTARTS, restarts)
        self._writer.page.set_queues(celery_worker.queue_names(self._consumer.app))
        try:
            state = celery_worker.state_of(self._consumer)
        except (RuntimeError, *MALFORMED_ERRORS):  # a pool of the application's own
            return
        writer = self._writer
        for phase in ("active", "reserved", "scheduled"):
            put(writer, builtin.TASKS, getattr(state, phase), celery_phase=phase)
        put(writer, builtin.POOL_LIMIT, state.pool_limit)
        put(writer, builtin.POOL_USAGE, state.active)
        put(writer, builtin.PREFETCH_LIMIT, state.prefetch_limit)

    def connection_changed(self, consumer: Any, *, is_connected: bool) -> None:
        """Note that the worker has or has lost its broker."""
        self._consumer = consumer
        put(self._writer, builtin.CONNECTED, int(is_connected))
        if is_connected:
            self._connections += 1
            if self._connections > 1:
                self._tasks.count(builtin.RECONNECTS, {})
            self._looked = 0.0

    def _limit_is_over(self, pid: int) -> None:
        self._limited[pid] = None
        while len(self._limited) > LIMITED_KEPT:
            del self._limited[next(iter(self._limited))]

    def child_ended(self, child: EndedChild) -> None:
        """Count a process of the pool that has ended."""
        reason = self._reason(child)
        self._tasks.count(builtin.CHILD_ENDED, {"celery.reason": reason})

    def _reason(self, child: EndedChild) -> str:
        """Return why a child has ended: its exit status, and what is known besides."""
        status = child.status
        if self._limited.pop(child.pid, child.pid) is None:
            return "time_limit"
        if status == celery_worker.RECYCLED:
            return "recycled"
        before, self._oom_kills = self._oom_kills, _oom_kills()
        if status == -signal.SIGKILL and self._oom_kills > before:
            return "oom"
        return "killed" if status < 0 and not child.is_controlled else "exit"


class BeatMetrics:
    """Records what beat does.

    Args:
        writer: Of beat's process.
        tasks: Adds to histograms.
    """

    def __init__(self, writer: Writer, tasks: TaskMetrics) -> None:
        self._writer = writer
        self._tasks = tasks

    def connect(self) -> None:
        """Watch the scheduler of this process."""
        celery_worker.watch_ticks(self._ticked)

    def publishing(self, entry: Any) -> None:
        """Record how late an entry is; called before it is published."""
        try:
            late = -entry.schedule.remaining_estimate(entry.last_run_at).total_seconds()
        except MALFORMED_ERRORS:  # a schedule of the application's own
            return
        if late >= 0:
            attributes = {"celery.schedule.entry": str(entry.name)}
            self._tasks.record(builtin.BEAT_LAG, attributes, late)

    def _ticked(self) -> None:
        # By the time itself: the age is made when it is read, so that it grows even
        # where beat hangs.
        put(self._writer, builtin.BEAT_TICK_AGE, time.time_ns())


def _oom_kills() -> int:
    """Return how many processes of this container the kernel has killed for want of memory.

    ``oom_kill`` in ``memory.events`` (cgroups(7)); 0 if that cannot be known.
    """
    with suppress(OSError, ValueError, LookupError):
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        places = (Path("/sys/fs/cgroup"), Path(f"/sys/fs/cgroup{group}"))
        for place in places:
            events = place / "memory.events"
            if os.path.exists(events):
                words = events.read_text().split()
                return int(words[words.index("oom_kill") + 1])
    return 0
