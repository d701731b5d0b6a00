# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the tasks as a table for a terminal, now and then and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.tail.screen import PLAIN_COLUMNS, duration
from otel_celery_launcher.terminal import cut, pad

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_celery_launcher.tail.task_figures import TaskRow

NAMES_SHOWN = 20

HEAD = ("task", "runs", "failed", "retry", "lost", "open", "p50", "p95", "wait p95")
COLUMNS = (0, 6, 6, 5, 4, 6, 7, 7, 8)  # the name takes what is left
NAME_COLUMNS = (8, 60)  # at least, at most


def lines(
    rows: Sequence[TaskRow], columns: int = 0, limit: int = NAMES_SHOWN
) -> list[str]:
    """Return the table for a terminal of this width, or for a file.

    Args:
        rows: Of the tasks, in their order.
        columns: Of the terminal; 0 for a file.
        limit: How many tasks are shown.
    """
    if not rows:
        return []
    least, most = NAME_COLUMNS
    rest = sum(COLUMNS) + len(COLUMNS) - 1
    room = min(max((columns or PLAIN_COLUMNS) - rest, least), most)
    table = [_line(HEAD, room)]
    for row in rows[:limit]:
        counts = (row.runs, row.failed, row.retried, row.lost, row.open)
        times = map(_duration, (row.p50, row.p95, row.wait_p95))
        table.append(_line((row.name, *map(str, counts), *times), room))
    more = len(rows) - limit
    return [*table, f"… and {more} more names of tasks"] if more > 0 else table


def _line(cells: Iterable[str], room: int) -> str:
    name, *numbers = cells
    fitted = [pad(cut(name, room), room)]
    fitted += [
        text.rjust(columns) for text, columns in zip(numbers, COLUMNS[1:], strict=True)
    ]
    return " ".join(fitted)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)
