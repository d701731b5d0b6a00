# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The page: memory in which every process of a worker has rows of its own.

    head (``page_head.py``) | heads of all rows | segment 0 | segment 1 | …

A row is a chain of segments with series in them (``layout.py``). A process claims a row
by locking one byte (``fcntl.lockf``): the kernel releases the lock when the process
ends, however it ends, and no child inherits it. The row of a dead process goes to the
next one, which goes on where it stopped. So a worker has as many rows as it had
processes at once, and none of its counts is ever copied.

A lock also ends when its process closes any descriptor of the page, as code does that
closes all. So the head of a row also names its process, and a row whose process lives is
not taken.

Made by the main process before its first fork; its memory is allocated as it is used.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from otel_celery_launcher.ipc.shared_memory import SharedMemory, new_memory
from otel_celery_launcher.metrics.layout import (
    EXEMPLARS,
    HEAD,
    LENGTH,
    WORD,
    read_key,
)
from otel_celery_launcher.metrics.page_head import (
    HEAD_BYTES,
    NEXT_SEGMENT,
    VERSION,
    VERSION_WORD,
    PageHead,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.metrics.layout import Description, Items

# As many processes may have a row at once.
ROWS = 4096

# Segment 0 is written by all and read by none: measurements go there for which there is
# no room.
SEGMENTS = 4096
SEGMENT_BYTES = 16 * 1024
VOID = 0
KEPT_SEGMENTS = 1024

# Words of a row's head: what it is for, the process that has it and when that process
# began, the first segment, how many series found no room, whether there are exemplars.
_PURPOSE, _PID, _BEGAN, _FIRST, _LOST, _EXEMPLARS = range(6)
_ROW_WORDS = 8

_ROWS_START = HEAD_BYTES
_SEGMENTS_START = _ROWS_START + ROWS * _ROW_WORDS * WORD
PAGE_BYTES = _SEGMENTS_START + SEGMENTS * SEGMENT_BYTES

# What a row is for. Rows of an exporter keep what was last exported of each series, for
# delta temporality; exporter number 0 has the first purpose.
UNUSED, MEASUREMENTS, DAMAGED, ABANDONED = range(4)
EXPORTER = 16

# The byte whose lock is the right to allocate a segment; a row's byte is its number.
_ALLOCATION_LOCK = ROWS
_EXPORT_LOCK = ROWS + 1
_ALLOCATION_TRIES = 1000

# What a new segment may be: none is left, or another process was quicker to ask.
FULL, BUSY = 0, -1


class DamagedPageError(Exception):
    """Something else has written into the page."""


class Series(NamedTuple):
    """Where a series lies.

    Attributes:
        cells: The word at which its cells begin, counted over the whole page.
        words: How many cells it has.
        key: ``layout.key_of``.
        kind: A ``layout.Kind``, as a number.
        flags: Of the layout.
        created: Nanoseconds since the epoch.
    """

    cells: int
    words: int
    key: bytes
    kind: int
    flags: int
    created: int


class MetricPage(PageHead):
    """The page, as one process maps it.

    Args:
        descriptor: Of a page that another process made; None makes a new one.

    Raises:
        OSError: No descriptor or no memory is left, or it is over RLIMIT_FSIZE.
        DamagedPageError: It is of another version.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        is_new = descriptor is None
        self.descriptor = (
            new_memory("otel-celery-metrics", PAGE_BYTES)
            if descriptor is None
            else descriptor
        )
        self._shared = SharedMemory(self.descriptor)
        super().__init__(memoryview(mmap.mmap(self.descriptor, PAGE_BYTES)))
        self._own: set[tuple[int, int]] = set()  # process and row
        if is_new:
            self.words[NEXT_SEGMENT] = VOID + 1
            self.begin(time.time_ns())
        elif self.words[VERSION_WORD] != VERSION:
            raise DamagedPageError("of another version")

    def descriptors(self) -> list[int]:
        """Return the descriptor, as a list; empty if it is no longer ours."""
        return self._shared.descriptors()

    # Rows and who has them.

    def claim(self, purpose: int, first: int = 0) -> tuple[int, bool] | None:
        """Claim a row for this process.

        Args:
            purpose: What it is for.
            first: The lowest row that may be it.

        Returns:
            Its number, and whether it was another process's before. None if no row is
            left, or the descriptor is no longer ours.
        """
        if not self._shared.descriptors():
            return None
        words = self.words
        me = os.getpid(), _began(os.getpid())
        for row in range(first, ROWS):
            head = _head_of(row)
            is_mine = (words[head + _PID], words[head + _BEGAN]) == me
            if (
                is_mine  # another writer of this process has it
                or words[head + _PURPOSE] not in (UNUSED, purpose)
                or not self._lock(row)
            ):
                continue
            owner = words[head + _PID], words[head + _BEGAN]
            if words[head + _PURPOSE] in (UNUSED, purpose) and not _is_alive(*owner):
                self._own.add((os.getpid(), row))
                words[head + _PID], words[head + _BEGAN] = me
                words[head + _PURPOSE] = purpose
                return row, owner != (0, 0)
            self._unlock(row)
        return None

    def give_up(self, row: int) -> None:
        """Leave a row that something else has written into: it is only read any more."""
        head = _head_of(row)
        is_measured = self.words[head + _PURPOSE] == MEASUREMENTS
        self.words[head + _PURPOSE] = DAMAGED if is_measured else ABANDONED
        self._own.discard((os.getpid(), row))
        self._unlock(row)

    def release(self, row: int) -> None:
        """Leave a row to the next process (exporter that ends before its process)."""
        self.words[_head_of(row) + _PID] = 0
        self._own.discard((os.getpid(), row))
        self._unlock(row)

    def claim_export(self) -> bool:
        """Try to become the process that exports, where no main process does."""
        return self._lock(_EXPORT_LOCK)

    def rows(self, purpose: int) -> list[int]:
        """Return the rows that are used for a purpose, damaged ones included."""
        words = self.words
        found = []
        for row in range(ROWS):
            used = words[_head_of(row) + _PURPOSE]
            if used == UNUSED:
                break  # rows are claimed from the first one on
            if used == purpose or (used == DAMAGED and purpose == MEASUREMENTS):
                found.append(row)
        return found

    def is_living(self, row: int) -> bool:
        """Return whether the process that has a row lives."""
        if (os.getpid(), row) in self._own:
            return True
        if not self._lock(row):
            return True
        self._unlock(row)
        head = _head_of(row)
        return _is_alive(self.words[head + _PID], self.words[head + _BEGAN])

    def add_lost(self, row: int) -> None:
        """Count a series for which there is no room."""
        self.words[_head_of(row) + _LOST] += 1

    def note_exemplar(self, row: int) -> None:
        """Say that a row has an exemplar."""
        if row >= 0:
            self.words[_head_of(row) + _EXEMPLARS] = 1

    def take_exemplar_note(self, row: int) -> bool:
        """Return whether a row may have exemplars, and forget it."""
        head = _head_of(row)
        has_some, self.words[head + _EXEMPLARS] = self.words[head + _EXEMPLARS], 0
        return bool(has_some)

    @property
    def lost(self) -> int:
        """How many series found no room, over all processes."""
        rows = self.rows(MEASUREMENTS)
        return sum(self.words[_head_of(row) + _LOST] for row in rows)

    # Segments.

    def series(self, row: int) -> Iterator[Series]:
        """Yield the series of a row, in the order in which they were made.

        Raises:
            DamagedPageError: Something else has written into the row; what was before
                it has been yielded.
        """
        segments = self.segments(row)
        for segment in segments:
            position, end = segment_range(segment)
            while series := self.series_at(position, end):
                yield series
                position = (series.cells + series.words) * WORD

    def segments(self, row: int) -> list[int]:
        """Return the segments of a row.

        Raises:
            DamagedPageError: They are no chain.
        """
        found: list[int] = []
        segment = self.words[_head_of(row) + _FIRST]
        while segment:
            if segment >= SEGMENTS or len(found) > SEGMENTS:
                raise DamagedPageError(f"row {row} has no chain of segments")
            found.append(segment)
            segment = self.words[_start_of(segment) // WORD]
        return found

    def series_at(self, position: int, end: int) -> Series | None:
        """Return the series at a place of a segment; None behind the last one.

        Raises:
            DamagedPageError: It is none.
        """
        if position + HEAD.size > end:
            return None
        length, key_length, kind, flags, created, checksum = HEAD.unpack_from(
            self.bytes, position
        )
        if not length:
            return None
        key_start = position + HEAD.size
        cells = key_start + _padded(key_length)
        if length % WORD or position + length > end or cells >= position + length:
            raise DamagedPageError(f"no series at {position}")
        key = bytes(self.bytes[key_start : key_start + key_length])
        if zlib.crc32(key) != checksum:
            raise DamagedPageError(f"no key at {key_start}")
        words = (position + length - cells) // WORD
        return Series(cells // WORD, words, key, kind, flags, created)

    def add_segment(self, row: int, last: int, *, is_needed: bool = True) -> int:
        """Allocate a segment behind a row's last one (0 for none); return its number.

        Args:
            row: The row.
            last: Its last segment.
            is_needed: Whether it may be one of the last, which are kept for first
                segments, for built-in metrics and for overflow points.

        Returns:
            FULL or BUSY if there is none.
        """
        segment = self._allocate(SEGMENTS if is_needed else SEGMENTS - KEPT_SEGMENTS)
        if segment > 0:
            link = _start_of(last) // WORD if last else _head_of(row) + _FIRST
            self.words[link] = segment
        return segment

    def add_series(
        self,
        position: int,
        limit: int,
        key: bytes,
        kind: int,
        flags: int,
        values: list[float],
    ) -> Series:
        """Write a series at a place where there is room for it.

        Args:
            position: In bytes.
            limit: The end of the segment.
            key: Of it.
            kind: Of it.
            flags: Of it.
            values: Its cells, as they are at first.
        """
        key_start = position + HEAD.size
        cells = key_start + _padded(len(key))
        end = cells + len(values) * WORD
        # What a writer that was killed has left; and behind it, which then ends here.
        self.bytes[position:end] = bytes(end - position)
        if end + LENGTH.size <= limit:
            LENGTH.pack_into(self.bytes, end, 0)
        self.bytes[key_start : key_start + len(key)] = key
        first = cells // WORD
        for number, value in enumerate(values):
            if value:
                self.values[first + number] = value
        created = time.time_ns()
        checksum = zlib.crc32(key)
        HEAD.pack_into(
            self.bytes, position, 0, len(key), kind, flags, created, checksum
        )
        LENGTH.pack_into(self.bytes, position, end - position)
        return Series(first, len(values), key, kind, flags, created)

    def _allocate(self, limit: int) -> int:
        for _ in range(_ALLOCATION_TRIES):
            if not self._lock(_ALLOCATION_LOCK):
                os.sched_yield()  # no sleep: it may be a task that waits
                continue
            try:
                segment = self.words[NEXT_SEGMENT]
                if not 0 < segment < limit:
                    return FULL
                self.words[NEXT_SEGMENT] = segment + 1
                return segment
            finally:
                self._unlock(_ALLOCATION_LOCK)
        return BUSY

    # A process never closes a descriptor of the page, which would end all its locks.

    def _lock(self, byte: int) -> bool:
        if not self._shared.descriptors():
            return False
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def _unlock(self, byte: int) -> None:
        if not self._shared.descriptors():  # the number is another file's by now
            return
        with suppress(OSError):
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)


def read_series(series: Series) -> tuple[Description, Items]:
    """Return instrument and attributes of a series.

    Raises:
        DamagedPageError: Its cells are not the instrument's.
        Exception: One of ``marshalled.READ_ERRORS``: its key cannot be read.
    """
    description, items = read_key(series.key)
    if series.words != description.words(has_exemplars=bool(series.flags & EXEMPLARS)):
        raise DamagedPageError(f"no cells at {series.cells}")
    return description, items


def series_bytes(key: bytes, words: int) -> int:
    """Return how many bytes a series takes."""
    return HEAD.size + _padded(len(key)) + words * WORD


def segment_range(segment: int) -> tuple[int, int]:
    """Return where series begin in a segment, and its end, in bytes."""
    start = _start_of(segment)
    return start + WORD, start + SEGMENT_BYTES


def _head_of(row: int) -> int:
    return _ROWS_START // WORD + row * _ROW_WORDS


def _start_of(segment: int) -> int:
    return _SEGMENTS_START + segment * SEGMENT_BYTES


def _padded(length: int) -> int:
    return -(-length // WORD) * WORD


def _is_alive(pid: int, began: int) -> bool:
    """Return whether the process lives that had a number at a time."""
    return pid != 0 and began != 0 and _began(pid) == began


def _began(pid: int) -> int:
    """Return when a process began, in the kernel's ticks; 0 if that cannot be known.

    Field 22 of ``/proc/<pid>/stat`` (proc(5)). It tells a process from a later one with
    its number. A zombie has it, too: it writes nothing any more.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, LookupError, ValueError):
        return 0
