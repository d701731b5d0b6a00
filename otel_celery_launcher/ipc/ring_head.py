# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The first page of a ring: what it is, and where each exporter is in it.

Read by every process that finds a ring, before it knows that it can read the rest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.datagrams import VERSION

if TYPE_CHECKING:
    import mmap

# Read as a number, so that another byte order is another version.
MAGIC = int.from_bytes(b"otelrg\x01\x00", "little") + (VERSION << 56)

WORD = 8
HEAD_BYTES = 4096
MAGIC_WORD, SIZE_WORD, ACTIVE_WORD, TABLE_WORD, ALIVE_WORD = range(5)

# Two tables of cursors, of which one is valid: how many, then mark and taken of each,
# then their names.
CURSORS = 8
TABLE_STARTS, TABLE_BYTES = (1024, 2048), 1024
CURSOR_WORDS = 2
NAMES_START, NAME_BYTES = 256, 64


class RingError(Exception):
    """The memory holds no ring that this version can read."""


def write_table(table: memoryview, marks: dict[tuple[int, str], int]) -> None:
    """Write a table that is not valid yet.

    Args:
        table: Its memory.
        marks: The mark of each exporter, by the number of its signal and its name.
    """
    words = table.cast("Q")
    words[0] = len(marks)
    for index, ((signal, name), mark) in enumerate(marks.items()):
        words[1 + index * CURSOR_WORDS] = words[2 + index * CURSOR_WORDS] = mark
        text = f"{signal}:{name}".encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
        start = NAMES_START + index * NAME_BYTES
        table[start : start + NAME_BYTES] = text


def table_in(head_page: memoryview, number: int) -> memoryview:
    """Return the memory of one of the two tables."""
    start = TABLE_STARTS[number]
    return head_page[start : start + TABLE_BYTES]


def read_table(table: memoryview) -> dict[tuple[int, str], int]:
    """Return the mark of each exporter, by its signal and name.

    Raises:
        RingError: Damaged.
    """
    words = table.cast("Q")
    if words[0] > CURSORS:
        raise RingError("damaged")
    marks = {}
    for index in range(words[0]):
        start = NAMES_START + index * NAME_BYTES
        text = (
            bytes(table[start : start + NAME_BYTES])
            .rstrip(b"\0")
            .decode("utf-8", "replace")
        )
        signal, _, name = text.partition(":")
        if not signal.isdecimal():
            raise RingError("damaged")
        marks[int(signal), name] = words[1 + index * CURSOR_WORDS]
    return marks


def names_in(memory: mmap.mmap) -> list[tuple[int, str]]:
    """Return the exporters of a ring: number of the signal, and name.

    Raises:
        RingError: Another version's, or damaged.
    """
    if len(memory) < HEAD_BYTES:
        raise RingError("too small")
    page = memoryview(memory)[:HEAD_BYTES]
    words = page.cast("Q")
    if words[MAGIC_WORD] != MAGIC:
        raise RingError("written by another version, or for another machine")
    return list(read_table(table_in(page, words[TABLE_WORD] & 1)))


def seconds_since_alive(memory: mmap.mmap) -> float:
    """Return how long ago the owner of a ring was alive; endless if that is not known."""
    start = ALIVE_WORD * WORD
    (alive,) = memoryview(memory)[start : start + WORD].cast("Q")
    seconds = (time.time_ns() - alive) / 1e9
    return seconds if seconds >= 0 else float("inf")
