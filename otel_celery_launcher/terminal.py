# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal: escaped, measured and cut in columns, in colour or not.

A task's name comes from a message: anyone who can publish can put an escape sequence
into it, which a terminal would execute. So received text is always passed through
``escape_controls`` before it is written.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_COLUMNS = 60  # the least that is readable

# Limit of a table's cell: third-party texts may be long.
CELL_COLUMNS = 40

LINES = "\n\t"  # harmless where a text has lines: statements, stack traces


def escape_controls(text: str, keep: str = "") -> str:
    r"""Return a text with its control characters escaped as by ``repr``: ``\x1b``.

    These are C0 and C1 controls, line separators, marks that change the writing
    direction, and all other characters that are not ``str.isprintable``.

    Args:
        text: The text as received.
        keep: Characters that are not escaped, such as ``LINES``.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else repr(char)[1:-1]
        for char in text
    )


def width(text: str) -> int:
    """Return the columns that a text takes on a terminal (Unicode, annex 11)."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """Cut an escaped text to a number of columns; add a mark if it was cut."""
    if columns < 1:
        return ""
    # Enough where half of the characters only mark others, and bounded.
    begin = text[: 2 * columns + 1]
    head = escape_controls(begin)
    if begin == text and width(head) <= columns:
        return head
    room, end = columns - 1, 0
    for char in head:
        room -= _columns(char)
        if room < 0:
            break
        end += 1
    return head[:end] + "…"


def pad(text: str, columns: int) -> str:
    """Return a text padded with blanks to a number of columns."""
    return text + " " * (columns - width(text))


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def columns_of(stream: TextIO | None) -> int:
    """Return a terminal's width, at least ``MIN_COLUMNS``; 0 for other streams."""
    if not is_terminal(stream):
        return 0
    return max(MIN_COLUMNS, shutil.get_terminal_size().columns)


def has_colour(stream: TextIO | None) -> bool:
    """Return whether a terminal has colours and its user has not disabled them.

    See https://no-color.org.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(stream)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: texts to the left, numbers to the right."""
    if not rows:
        return []
    rows = [[cut(cell, CELL_COLUMNS) for cell in row] for row in rows]
    columns = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    are_numbers = [
        all(cell.isdecimal() for cell in cells[1:]) for cells in zip(*rows, strict=True)
    ]
    return [
        "  ".join(
            cell.rjust(room) if is_number else pad(cell, room)
            for cell, room, is_number in zip(row, columns, are_numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
