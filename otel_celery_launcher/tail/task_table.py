# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What has come so far, task name by task name: a table, now and then and at the end."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_celery_launcher.tail.screen import PLAIN_COLUMNS, duration
from otel_celery_launcher.terminal import cut, pad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_celery_launcher.tail.waterfall import WaterfallRow

# Times of a task's last runs, from which the percentiles are.
TIMES_KEPT = 1000

# Names that have a line of their own; publishes and runs that are remembered.
NAMES_KEPT = 500
NAME_CHARACTERS = 200
NAMES_SHOWN = 20
IDS_KEPT = 50_000

OTHERS = "(other tasks)"

_Id = tuple[str, str]  # of a trace, and of a span in it
HEAD = ("task", "runs", "failed", "retry", "lost", "open", "p50", "p95", "wait p95")
COLUMNS = (0, 6, 6, 5, 4, 6, 7, 7, 8)  # the name takes what is left
NAME_COLUMNS = (8, 60)  # at least, at most


@dataclass
class _Task:
    runs: int = 0
    failed: int = 0
    retried: int = 0
    lost: int = 0
    took: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    waited: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))


class TaskTable:
    """Counts runs by the name of their task; each once, however often it is shown.

    Attributes:
        has_changed: Whether something came since the last table.
    """

    def __init__(self) -> None:
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

    def _add_publish(self, row: WaterfallRow) -> None:
        name = self._name(row)
        if name and row.is_open:
            self._open[row.span.span_id] = name
            self.has_changed = True
        else:
            self._open.pop(row.span.span_id, None)

    def _add_run(self, row: WaterfallRow) -> None:
        for link in row.span.links:
            self._open.pop(link, None)
        name = self._name(row)
        number = (row.span.trace_id, row.span.span_id)
        if not name or number in self._counted:
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

    def lines(self, columns: int = 0) -> list[str]:
        """Return the table for a terminal of this width, or for a file."""
        self.has_changed = False
        waiting = Counter(self._open.values())
        empty = _Task()
        names = sorted(
            {*self._tasks, *waiting},
            key=lambda name: (-self._tasks.get(name, empty).runs, name),
        )
        if not names:
            return []
        least, most = NAME_COLUMNS
        rest = sum(COLUMNS) + len(COLUMNS) - 1
        room = min(max((columns or PLAIN_COLUMNS) - rest, least), most)
        table = [_line(HEAD, room)]
        for name in names[:NAMES_SHOWN]:
            task = self._tasks.get(name, empty)
            counts = (task.runs, task.failed, task.retried, task.lost, waiting[name])
            times = (
                _share(task.took, 0.5),
                _share(task.took, 0.95),
                _share(task.waited, 0.95),
            )
            table.append(_line((name, *map(str, counts), *times), room))
        more = len(names) - NAMES_SHOWN
        return [*table, f"… and {more} more names of tasks"] if more > 0 else table


def _line(cells: Iterable[str], room: int) -> str:
    name, *numbers = cells
    fitted = [pad(cut(name, room), room)]
    fitted += [
        text.rjust(columns) for text, columns in zip(numbers, COLUMNS[1:], strict=True)
    ]
    return " ".join(fitted)


def _share(times: Iterable[float], share: float) -> str:
    """Return the time below which such a share lies; empty where there is none."""
    ordered = sorted(times)
    if not ordered:
        return ""
    return duration(ordered[min(int(share * len(ordered)), len(ordered) - 1)])
