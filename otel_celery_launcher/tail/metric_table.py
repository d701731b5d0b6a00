# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of tasks as a table: runs, failures, percentiles, waits, queues.

Counts of all workers that have reported are added up. Percentiles are of the histograms'
buckets, so they are the upper boundary of one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.tail.screen import duration
from otel_celery_launcher.terminal import cut, pad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_celery_launcher.receiver.metrics import ReceivedPoint

DURATION = builtin.RUN_DURATION.name
WAIT = builtin.QUEUE_WAIT.name
QUEUE = builtin.QUEUE_MESSAGES.name
_SHOWN = frozenset({DURATION, WAIT, QUEUE})

# Series that are kept, the latest ones; and tasks that are shown.
SERIES_KEPT = 20_000
TASKS_SHOWN = 20
EXEMPLARS_KEPT = 20

HEAD = ("task", "runs", "failed", "p50", "p95", "wait p95", "in queue", "trace")
COLUMNS = (0, 7, 6, 7, 7, 8, 8, 32)  # the name takes what is left
NAME_COLUMNS = (8, 50)

# On a terminal narrower than this, the beginning of a trace id has to do.
WIDE, SHORT_TRACE = 100, 16


@dataclass
class _Buckets:
    bounds: tuple[float, ...] = ()
    counts: list[int] = field(default_factory=list)

    def add(self, point: ReceivedPoint) -> None:
        if not self.counts:
            self.bounds, self.counts = point.bounds, list(point.buckets)
        elif self.bounds == point.bounds and len(self.counts) == len(point.buckets):
            pairs = zip(self.counts, point.buckets, strict=True)
            self.counts = [mine + others for mine, others in pairs]

    def share(self, share: float) -> str:
        """Return the boundary below which such a share of the values lies."""
        total, seen = sum(self.counts), 0
        if not total or not self.bounds:
            return ""
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=False):
            seen += count
            if seen >= share * total:
                last = self.bounds[-1]
                is_over = math.isinf(bound)
                return f">{duration(last)}" if is_over else f"≤{duration(bound)}"
        return ""


@dataclass
class _Task:
    runs: int = 0
    failed: int = 0
    took: _Buckets = field(default_factory=_Buckets)
    waited: _Buckets = field(default_factory=_Buckets)
    queues: set[str] = field(default_factory=set)
    traces: list[str] = field(default_factory=list)


class MetricTable:
    """Keeps the last points that say something of tasks.

    Attributes:
        has_changed: Whether something came since the last table.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[object, ...], ReceivedPoint] = OrderedDict()
        self._traces: dict[str, OrderedDict[str, None]] = {}  # by task, the last ones
        self.has_changed = False

    def add(self, points: Iterable[ReceivedPoint]) -> None:
        """Keep the points of a request."""
        for point in points:
            if point.metric not in _SHOWN:
                continue
            self.has_changed = True
            instance = point.resource.get("service.instance.id", point.service)
            key = (instance, *point.key)
            if point.temporality == "delta":
                key = (*key, point.time)
            self._last[key] = point
            self._last.move_to_end(key)
            while len(self._last) > SERIES_KEPT:
                self._last.popitem(last=False)
            if point.metric == DURATION and point.exemplars:
                self._keep_traces(_task_of(point), point.exemplars)

    def _keep_traces(self, task: str, traces: Sequence[str]) -> None:
        kept = self._traces.setdefault(task, OrderedDict())
        for trace in filter(None, traces):  # the last one is of the slowest bucket
            kept[trace] = None
            kept.move_to_end(trace)
        while len(kept) > EXEMPLARS_KEPT:
            kept.popitem(last=False)
        while len(self._traces) > SERIES_KEPT // EXEMPLARS_KEPT:
            del self._traces[next(iter(self._traces))]

    def lines(
        self, columns: int = 0, is_known: Callable[[str], bool] = lambda _: True
    ) -> list[str]:
        """Return the table; empty without tasks.

        Args:
            columns: Of the terminal; 0 for a file.
            is_known: Whether a trace can be shown: such a one is preferred.
        """
        self.has_changed = False
        tasks, queues = self._tasks(), self._queues()
        if not tasks:
            return []
        least, most = NAME_COLUMNS
        width = SHORT_TRACE if 0 < columns < WIDE else COLUMNS[-1]
        rest = sum(COLUMNS[:-1]) + width + len(COLUMNS) - 1
        room = min(max(columns - rest, least), most) if columns else most
        room = min(room, max(least, *map(len, tasks)))
        table = [_line(HEAD, room, width)]
        by_runs = sorted(tasks.items(), key=lambda item: (-item[1].runs, item[0]))
        for name, task in by_runs[:TASKS_SHOWN]:
            depths = [queues[queue] for queue in task.queues if queue in queues]
            traces = [*reversed(self._traces.get(name, {}))]
            trace = next(filter(is_known, traces), traces[0] if traces else "")
            trace = trace[:width]
            cells = (
                name,
                str(task.runs),
                str(task.failed),
                task.took.share(0.5),
                task.took.share(0.95),
                task.waited.share(0.95),
                str(sum(depths)) if depths else "",
                trace,
            )
            table.append(_line(cells, room, width))
        more = len(by_runs) - TASKS_SHOWN
        return [*table, f"… and {more} more tasks"] if more > 0 else table

    def _tasks(self) -> dict[str, _Task]:
        tasks: dict[str, _Task] = {}
        for point in self._last.values():
            if point.metric not in (DURATION, WAIT):
                continue
            task = tasks.setdefault(_task_of(point), _Task())
            queue = point.attributes.get("messaging.destination.name")
            if isinstance(queue, str):
                task.queues.add(queue)
            if point.metric == WAIT:
                task.waited.add(point)
                continue
            task.took.add(point)
            task.runs += point.count
            if point.attributes.get("celery.state") == "FAILURE":
                task.failed += point.count
        return tasks

    def _queues(self) -> dict[str, int]:
        """Return the depth of each queue: all its workers report it."""
        depths: dict[str, int] = {}
        for point in self._last.values():
            state = point.attributes.get("celery.queue.state")
            name = point.attributes.get("messaging.destination.name")
            if point.metric == QUEUE and state == "ready" and isinstance(name, str):
                depths[name] = max(depths.get(name, 0), int(point.value))
        return depths


def _task_of(point: ReceivedPoint) -> str:
    name = point.attributes.get("celery.task_name")
    return name[:200] if isinstance(name, str) and name else "(no name)"


def _line(cells: Iterable[str], room: int, width: int) -> str:
    name, *others = cells
    widths = (*COLUMNS[1:-1], width)
    fitted = [pad(cut(name, room), room)]
    fitted += [
        text.rjust(columns) for text, columns in zip(others, widths, strict=True)
    ]
    return " ".join(fitted).rstrip()
