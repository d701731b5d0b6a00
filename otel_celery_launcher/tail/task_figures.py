# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What has come so far, task name by task name: counts, times, and the last minutes."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_celery_launcher.tail.waterfall import WaterfallRow

# Times of a task's last runs, from which the percentiles are.
TIMES_KEPT = 1000

# Names that have figures of their own; publishes and runs that are remembered.
NAMES_KEPT = 500
NAME_CHARACTERS = 200
IDS_KEPT = 50_000

OTHERS = "(other tasks)"

# What is kept of the last minutes: intervals, and the seconds of each.
INTERVALS, INTERVAL_SECONDS = 60, 5

# The rate is that of the last of them.
RATE_INTERVALS = 12

_Id = tuple[str, str]  # of a trace, and of a span in it


class Interval(NamedTuple):
    """The runs of a task that ended in one interval.

    Attributes:
        runs: How many.
        failed: How many of them failed or were lost.
        slowest: Seconds of the one that took longest.
        trace_id: Its trace; empty where there was no run.
    """

    runs: int = 0
    failed: int = 0
    slowest: float = 0.0
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """The figures of one task; times in seconds, None where there are none.

    Attributes:
        open: Publishes whose run has not ended, as far as spans have come.
        in_queue: Messages that wait in the queues of its runs, as workers report them.
        rate: Runs a second in the last minute.
        intervals: The last ones, the oldest first.
    """

    name: str
    runs: int
    failed: int
    retried: int
    lost: int
    open: int
    rate: float
    p50: float | None
    p95: float | None
    wait_p95: float | None
    intervals: tuple[Interval, ...]
    in_queue: int | None = None


@dataclass
class _Task:
    runs: int = 0
    failed: int = 0
    retried: int = 0
    lost: int = 0
    took: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    waited: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    intervals: dict[int, Interval] = field(default_factory=dict)

    def note_interval(self, row: WaterfallRow, now: int) -> None:
        """Count a run where it ended; nothing if that is long ago, or to come."""
        number = min(int(row.span.end // INTERVAL_SECONDS), now)
        if number <= now - INTERVALS:
            return
        runs, failed, slowest, trace_id = self.intervals.get(number, Interval())
        if not trace_id or row.took > slowest:
            slowest, trace_id = row.took, row.span.trace_id
        failed += row.note in ("LOST", "ERROR")
        self.intervals[number] = Interval(runs + 1, failed, slowest, trace_id)
        for old in [each for each in self.intervals if each <= now - INTERVALS]:
            del self.intervals[old]


class TaskFigures:
    """Counts runs by the name of their task; each once, however often it is shown.

    Not for several threads at once.

    Args:
        clock: Seconds since the epoch.

    Attributes:
        has_changed: Whether something came since it was set to False.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tasks: dict[str, _Task] = {}
        self._names: set[str] = set()
        self._counted: OrderedDict[_Id, None] = OrderedDict()  # of runs
        self._open: OrderedDict[str, str] = OrderedDict()  # publish: name of its task
        self.has_changed = False

    def add(self, rows: Iterable[WaterfallRow]) -> None:
        """Count the rows of a trace."""
        for row in rows:
            if row.span.kind == "PRODUCER":
                self._add_publish(row)
            elif row.span.kind == "CONSUMER":
                self._add_run(row)
        while len(self._counted) > IDS_KEPT:
            self._counted.popitem(last=False)
        while len(self._open) > IDS_KEPT:
            self._open.popitem(last=False)

    def rows(self) -> list[TaskRow]:
        """Return the figures of each task, those with most runs first."""
        waiting = Counter(self._open.values())
        now = self._interval_now()
        found = [
            self._row(name, self._tasks.get(name, _Task()), waiting[name], now)
            for name in {*self._tasks, *waiting}
        ]
        return sorted(found, key=lambda row: (-row.runs, row.name))

    def _row(self, name: str, task: _Task, waiting: int, now: int) -> TaskRow:
        intervals = tuple(
            task.intervals.get(number, Interval())
            for number in range(now - INTERVALS + 1, now + 1)
        )
        recent = sum(each.runs for each in intervals[-RATE_INTERVALS:])
        return TaskRow(
            name=name,
            runs=task.runs,
            failed=task.failed,
            retried=task.retried,
            lost=task.lost,
            open=waiting,
            rate=recent / (RATE_INTERVALS * INTERVAL_SECONDS),
            p50=_share(task.took, 0.5),
            p95=_share(task.took, 0.95),
            wait_p95=_share(task.waited, 0.95),
            intervals=intervals,
        )

    def _interval_now(self) -> int:
        return int(self._clock() // INTERVAL_SECONDS)

    def _add_publish(self, row: WaterfallRow) -> None:
        name = self._name(row)
        if name and row.is_open:
            self._open[row.span.span_id] = name
            self.has_changed = True
        else:
            self._open.pop(row.span.span_id, None)

    def _add_run(self, row: WaterfallRow) -> None:
        for publish in (row.span.parent_id, *row.span.links):
            self._open.pop(publish, None)
        name = self._name(row)
        number = (row.span.trace_id, row.span.span_id)
        if number in self._counted:
            self._counted.move_to_end(number)
            return
        if not name:
            return
        self._counted[number] = None
        self.has_changed = True
        task = self._tasks.setdefault(name, _Task())
        task.runs += 1
        task.lost += row.note == "LOST"
        task.failed += row.note == "ERROR"
        task.retried += "celery.retry.reason" in row.span.attributes
        task.took.append(row.took)
        if row.waited is not None:
            task.waited.append(row.waited)
        task.note_interval(row, self._interval_now())

    def _name(self, row: WaterfallRow) -> str:
        """Return the name under which a span counts; empty for one of no task."""
        name = row.span.attributes.get("celery.task_name")
        if not isinstance(name, str) or not name:
            return ""
        name = name[:NAME_CHARACTERS]
        if name not in self._names:
            if len(self._names) >= NAMES_KEPT:
                return OTHERS
            self._names.add(name)
        return name


def _share(times: Iterable[float], share: float) -> float | None:
    """Return the time below which such a share lies; None where there is none."""
    ordered = sorted(times)
    if not ordered:
        return None
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
