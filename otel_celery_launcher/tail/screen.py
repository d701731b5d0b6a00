# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A trace as text: with bars to scale on a terminal, in 80 plain columns elsewhere.

Colours are the terminal's own eight, so that they can be read on light and on dark.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from click import style

from otel_celery_launcher.tail.log_lines import ERROR, WARNING, last
from otel_celery_launcher.tail.output import write_line
from otel_celery_launcher.tail.waterfall import error_of
from otel_celery_launcher.terminal import (
    LINES,
    columns_of,
    cut,
    escape_controls,
    has_colour,
    pad,
    width,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.tail.log_lines import LogLine
    from otel_celery_launcher.tail.waterfall import WaterfallRow

# Plain text: service, name, kind, start, took, waited, note; a blank between each.
PLAIN_COLUMNS = 80
PLAIN_WIDTHS = (11, 34, 8, 5, 5, 5, 6)
PLAIN_DEPTH = 20  # below which reasons are not indented any further
LINES_SHOWN = 20  # log records below one span
PLAIN_HEAD = ("service", "span", "kind", "start", "took", "wait", "")

# On a terminal: shares of its width.
NAME_SHARE, SERVICE_SHARE = 0.42, 0.16
TIME_COLUMNS, NOTE_COLUMNS = 7, 6
WIDE_COLUMNS = 100  # from here on the wait has a column, too

NOTE_STYLES: dict[str, dict[str, Any]] = {
    "LOST": {"fg": "red", "bold": True},
    "ERROR": {"fg": "red", "bold": True},
    "ORPHAN": {"fg": "magenta"},
    "ROOT": {"fg": "magenta"},
    "retry": {"fg": "yellow"},
    "open": {"fg": "yellow"},
}
_FAILED = ("LOST", "ERROR")

# Of services, in the order in which they come; red and yellow say something else.
SERVICE_COLOURS = ("cyan", "green", "blue", "magenta")

SERVICES_KEPT = 1000  # that have a colour of their own

# Bars: what ran, what waited, and what was shorter than half a column.
BARS = {True: ("█", "░", "▏"), False: ("#", ".", "|")}


class _Layout(NamedTuple):
    """Columns of a waterfall on a terminal."""

    name: int
    service: int
    times: int  # how many columns of times
    bar: int

    @classmethod
    def of(cls, rows: Sequence[WaterfallRow], columns: int) -> _Layout:
        """Share a number of columns between what the rows need."""
        names = [width(row.span.name[:columns]) + row.depth for row in rows]
        services = [width(row.span.service[:columns]) for row in rows]
        name = min(int(columns * NAME_SHARE), max(names, default=0))
        service = min(int(columns * SERVICE_SHARE), max([7, *services]))
        times = 2 if columns >= WIDE_COLUMNS else 1
        taken = name + service + times * (TIME_COLUMNS + 1) + NOTE_COLUMNS + 4
        return cls(name, service, times, columns - taken)


class Screen:
    """Writes traces to one output.

    Args:
        out: Where to; standard output if none is given.
        has_stacks: Whether stack traces are shown, too.

    Attributes:
        columns: The terminal's width; 0 where the output is no terminal.
    """

    def __init__(self, out: TextIO | None = None, *, has_stacks: bool = False) -> None:
        self._out = out
        self._has_stacks = has_stacks
        self._is_coloured = has_colour(out or sys.stdout)
        self._services: dict[str, str] = {}

    @property
    def columns(self) -> int:
        """The terminal's width now; 0 if the output is not a terminal."""
        return columns_of(self._out or sys.stdout)

    def show(self, rows: Sequence[WaterfallRow], head: str = "") -> None:
        """Write a trace, a heading before it."""
        columns = self.columns
        if head:
            write_line(self._styled(head, bold=True) if columns else head, self._out)
        lines = self.drawn(rows, columns) if columns else self.plain(rows)
        write_line("\n".join(lines), self._out)

    def plain(self, rows: Sequence[WaterfallRow]) -> list[str]:
        """Return the lines for a pipe or a file, each at most 80 columns wide."""
        lines = [_plain_line(PLAIN_HEAD)]
        for row in rows:
            lines.append(_plain_line(_plain_cells(row)))
            if row.reason:
                depth = min(row.depth, PLAIN_DEPTH)
                indent = " " * (PLAIN_WIDTHS[0] + 1 + depth + 2)
                lines.append(indent + _why(row, PLAIN_COLUMNS - len(indent)))
            lines += self._stack(row)
            lines += self._logged(row, PLAIN_WIDTHS[0] + 1, PLAIN_COLUMNS)
        return lines

    def drawn(self, rows: Sequence[WaterfallRow], columns: int) -> list[str]:
        """Return the lines for a terminal of this width."""
        layout = _Layout.of(rows, columns)
        seconds = max((row.start + row.took for row in rows), default=0.0)
        scale = _Scale(seconds, layout.bar, BARS[self._has_blocks()])
        head = " ".join(
            (
                pad("span", layout.name),
                pad("service", layout.service),
                *("took".rjust(TIME_COLUMNS), "wait".rjust(TIME_COLUMNS))[
                    : layout.times
                ],
                "",
                scale.head(),
            )
        )
        lines = [self._styled(head.rstrip(), bold=True)]
        for row in rows:
            lines.append(self._drawn_row(row, layout, scale))
            if row.reason:
                indent = " " * min(row.depth + 2, layout.name // 2)
                reason = _why(row, columns - len(indent))
                style = NOTE_STYLES.get(row.note, {})
                lines.append(indent + self._styled(reason, **style))
            lines += self._stack(row)
            lines += self._logged(row, 0, columns)
        return lines

    def _logged(self, row: WaterfallRow, left: int, columns: int) -> list[str]:
        """Return the log lines of a row, below its name.

        Args:
            row: The row.
            left: Where names begin.
            columns: Of the whole.
        """
        lines, left_out = last(row.lines, LINES_SHOWN)
        indent = " " * (left + min(row.depth, PLAIN_DEPTH) + 2)
        room = columns - len(indent)
        found = []
        if left_out:
            before = f"… {left_out} earlier log records; --json has all"
            found.append(indent + cut(before, room))
        for line in lines:
            time = duration(line.start) if line.start >= 0 else ""
            text = f"{time.rjust(TIME_COLUMNS)} {line.severity[:8]} {line.brief}"
            how = _severity_style(line)
            found.append(indent + self._styled(cut(text, room), **how))
            found += self._of_stack(line.stack)
        return found

    def _drawn_row(self, row: WaterfallRow, layout: _Layout, scale: _Scale) -> str:
        """Return the line of one span."""
        name = pad(cut(" " * row.depth + row.span.name, layout.name), layout.name)
        service = pad(cut(row.span.service, layout.service), layout.service)
        colour = self._colour(row.span.service)
        state = NOTE_STYLES.get(row.note, {})
        is_failed = row.note in _FAILED
        wait, bar = scale.bar(row)
        run = bar if row.note else bar.rstrip()
        cells = (
            self._styled(name, **(state if is_failed else {})),
            self._styled(service, fg=colour),
            *(_time(row.took), _time(row.waited))[: layout.times],
            "",
            self._styled(wait, fg="yellow")
            + self._styled(run, fg="red" if is_failed else colour),
            self._styled(row.note, **state),
        )
        return " ".join(cells).rstrip()

    def _stack(self, row: WaterfallRow) -> list[str]:
        """Return the stack trace of a row, if it has one and it is asked for."""
        return self._of_stack(error_of(row.span).stack)

    def _of_stack(self, stack: str) -> list[str]:
        text = escape_controls(stack if self._has_stacks else "", keep=LINES).rstrip()
        return [f"    {line}" for line in text.splitlines()]

    def _colour(self, service: str) -> str:
        if len(self._services) >= SERVICES_KEPT and service not in self._services:
            self._services.clear()  # a service's name is what a request says
        number = len(self._services) % len(SERVICE_COLOURS)
        return self._services.setdefault(service, SERVICE_COLOURS[number])

    def _styled(self, text: str, **how: Any) -> str:
        if not how or not text.strip() or not self._is_coloured:
            return text
        return style(text, **how)

    def _has_blocks(self) -> bool:
        """Return whether the output's encoding has the characters of the bars."""
        encoding = getattr(self._out or sys.stdout, "encoding", None) or "ascii"
        try:
            "".join(BARS[True]).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True


class _Scale:
    """Where times lie in a row of columns.

    Args:
        seconds: What the whole row stands for.
        columns: Its length.
        characters: For what ran, what waited, and what is too short.
    """

    def __init__(
        self, seconds: float, columns: int, characters: tuple[str, str, str]
    ) -> None:
        self._columns = columns
        self._each = columns / seconds if seconds > 0 else 0.0
        self._seconds = seconds
        self._run, self._wait, self._instant = characters

    def head(self) -> str:
        """Return the beginning and the end of the scale."""
        end = duration(self._seconds)
        return "0" + end.rjust(self._columns - 1)

    def bar(self, row: WaterfallRow) -> tuple[str, str]:
        """Return blanks and wait, then the run and blanks: the whole row in two parts."""
        last = self._columns - 1
        start = min(max(round(row.start * self._each), 0), last)
        length = min(round(row.took * self._each), self._columns - start)
        waited = min(round((row.waited or 0.0) * self._each), start)
        run = self._run * length if length > 0 else self._instant
        before = " " * (start - waited) + self._wait * waited
        return before, run.ljust(self._columns - start)


def _why(row: WaterfallRow, columns: int) -> str:
    """Return why a span failed, and where, which is never left out."""
    place = cut(row.place, columns // 2)
    if not place:
        return cut(row.reason, columns)
    return f"{cut(row.reason, columns - len(place) - 2)}  {place}"


def _severity_style(line: LogLine) -> dict[str, Any]:
    severity = line.record.severity
    if severity >= ERROR:
        return {"fg": "red"}
    return {"fg": "yellow"} if severity >= WARNING else {"dim": True}


def _time(seconds: float | None) -> str:
    return ("" if seconds is None else duration(seconds)).rjust(TIME_COLUMNS)


def duration(seconds: float) -> str:
    """Return a time in seven characters at most: ``850 µs``, ``27 ms``, ``1.20 s``."""
    if seconds < 0.0009995:
        seconds = max(seconds, 0.0)  # of a span that ends before its start
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m"[:TIME_COLUMNS]


def _plain_cells(row: WaterfallRow) -> tuple[str, ...]:
    return (
        row.span.service,
        " " * row.depth + row.span.name,
        row.span.kind,
        _seconds(row.start),
        _seconds(row.took),
        "" if row.waited is None else _seconds(row.waited),
        row.note,
    )


def _plain_line(cells: Sequence[str]) -> str:
    fitted = []
    for index, (cell, columns) in enumerate(zip(cells, PLAIN_WIDTHS, strict=True)):
        text = cut(cell, columns)
        is_number = 3 <= index <= 5
        fitted.append(text.rjust(columns) if is_number else pad(text, columns))
    return " ".join(fitted).rstrip()


def _seconds(value: float) -> str:
    """Return seconds in five characters."""
    return f"{value:.3f}" if value < 10 else f"{value:.4g}"[:5]
