# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A trace as a waterfall of text, 80 columns wide; coloured where rich is installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.receiving.spans import ReceivedSpan

COLUMNS = 80
# service, name, kind, start, took, waited, note: 80 with a blank between each
WIDTHS = (11, 34, 8, 5, 5, 5, 6)
HEAD = ("service", "span", "kind", "start", "took", "wait", "")
STYLES = {
    "LOST": "bold red",
    "ERROR": "bold red",
    "ORPHAN": "magenta",
    "ROOT": "magenta",
    "retry": "yellow",
}


@dataclass(frozen=True, slots=True)
class WaterfallRow:
    """One span in its place: times in seconds, start relative to the trace."""

    span: ReceivedSpan
    start: float
    took: float
    waited: float | None  # from the publish to the run; None where that is not known
    depth: int  # 0 for a root
    is_orphan: bool  # its parent has not come

    @property
    def note(self) -> str:
        """What is remarkable about it, in a word of ``STYLES``, or nothing."""
        span = self.span
        if span.attributes.get("celery.lost"):
            return "LOST"
        if span.is_error:
            return "ERROR"
        if self.is_orphan:
            return "ORPHAN"
        if self.is_root_run:
            return "ROOT"
        return "retry" if "celery.retry.reason" in span.attributes else ""

    @property
    def is_root_run(self) -> bool:
        """Whether it is the run of a task that nobody seems to have published."""
        span = self.span
        return span.kind == "CONSUMER" and not (span.parent_id or span.links)


def arrange(spans: Sequence[ReceivedSpan]) -> list[WaterfallRow]:
    """Return the rows of one trace: children under parents, by start.

    A span that came twice is shown once; spans that are each other's parents, all the
    same.
    """
    by_id = {span.span_id: span for span in spans}
    children: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(by_id.values(), key=lambda span: span.start):
        above_id = span.parent_id if span.parent_id in by_id else ""
        children.setdefault(above_id, []).append(span)
    first = min((span.start for span in spans), default=0.0)
    rows: dict[str, WaterfallRow] = {}
    roots = [*children.get("", []), *by_id.values()]  # the others are below, as a rule
    todo = [(span, 0) for span in reversed(roots)]
    while todo:
        span, depth = todo.pop()
        if span.span_id in rows:
            continue
        parent = by_id.get(span.parent_id)
        took, is_orphan = span.end - span.start, bool(span.parent_id) and parent is None
        rows[span.span_id] = WaterfallRow(
            span, span.start - first, took, _wait(span, parent), depth, is_orphan
        )
        below = reversed(children.get(span.span_id, []))
        todo += [(child, depth + 1) for child in below]
    return list(rows.values())


def _wait(span: ReceivedSpan, parent: ReceivedSpan | None) -> float | None:
    """Return how long a task waited: from its publish, else from what its run says."""
    if span.kind != "CONSUMER":
        return None
    if parent is not None and parent.kind == "PRODUCER":
        return max(0.0, span.start - parent.end)
    waits = [
        span.attributes.get(f"celery.wait.{where}") for where in ("broker", "worker")
    ]
    told = [wait for wait in waits if isinstance(wait, float)]
    return sum(told) if told else None


def render(rows: Sequence[WaterfallRow]) -> list[str]:
    """Return the lines of a waterfall, each at most 80 columns wide."""
    return [_line(HEAD), *(_line(_cells(row)) for row in rows)]


def _cells(row: WaterfallRow) -> tuple[str, ...]:
    return (
        row.span.service,
        " " * row.depth + row.span.name,
        row.span.kind,
        _seconds(row.start),
        _seconds(row.took),
        "" if row.waited is None else _seconds(row.waited),
        row.note,
    )


def show(rows: Sequence[WaterfallRow], out: TextIO | None = None) -> None:
    """Print a waterfall; coloured on a terminal where rich is installed."""
    out = out or sys.stdout
    lines = render(rows)
    if out.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ImportError:
            pass
        else:
            console = Console(file=out)
            styles = ["bold", *(STYLES.get(row.note, "") for row in rows)]
            for line, style in zip(lines, styles, strict=True):
                console.print(Text(line, style=style), no_wrap=True, crop=True)
            return
    out.writelines(f"{line}\n" for line in lines)
    out.flush()


def _line(cells: Sequence[str]) -> str:
    fitted = []
    for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True)):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        is_number = 3 <= index <= 5
        fitted.append(text.rjust(width) if is_number else text.ljust(width))
    return " ".join(fitted).rstrip()


def _seconds(value: float) -> str:
    """Return seconds in five characters."""
    return f"{value:.3f}" if value < 10 else f"{value:.4g}"[:5]
