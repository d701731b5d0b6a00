# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Text for people: what a terminal may obey made visible, cut to columns, in colour or not.

A task's name is only a message on the broker: whoever can publish can put an escape
sequence there, which a terminal would obey. Nothing that was received is written
without ``escape_controls``.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import TextIO

MIN_COLUMNS = 60  # the least that is readable

LINES = "\n\t"  # harmless where a text has lines: statements, stack traces


def escape_controls(text: str, keep: str = "") -> str:
    r"""Return a text with what a terminal may obey written as ``repr`` does: ``\x1b``.

    Those are C0 and C1 controls, line separators, marks that change the direction of
    writing, and anything else without a picture (``str.isprintable``).

    Args:
        text: As it was received.
        keep: Characters that stay, where lines are harmless.
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
    """Return a text that may be shown, cut to a number of columns, with a mark if it was cut."""
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
    """Return whether a person may look at what is written there."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def columns_of(stream: TextIO | None) -> int:
    """Return a terminal's width now, the least that is readable at least; 0 for none."""
    if not is_terminal(stream):
        return 0
    return max(MIN_COLUMNS, shutil.get_terminal_size().columns)


def has_colour(stream: TextIO | None) -> bool:
    """Return whether a terminal takes colours, and its user wants them (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(stream)
