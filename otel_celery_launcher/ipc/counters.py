# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Counters of delivery in memory that all processes of a worker share.

Made by the main process before its first fork; each process writes one row (by its slot
in the pool, so a recycled child goes on where the one before it ended) and the main
process reads all of them. No lock: a row has one writing process at a time, and a
reader of a half-written row reports a slightly old figure, nothing worse.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Iterator

from otel_celery_launcher.ipc.channel import above_standard
from otel_celery_launcher.ipc.in_flight import NOTE_BYTES, RUNNING, RunNote, RunNotes

# Main process, pool slots, exporter process, embedded beat. Slots beyond start anew at
# the first pool row.
ROWS = 128
MAIN_ROW = 0
POOL_ROWS = range(1, ROWS - 2)
EXPORTER_ROW = ROWS - 2
BEAT_ROW = ROWS - 1

# Where no collector was ever reached, waiting longer would only delay the stop.
NEVER_REACHED_SECONDS = 0.5

ERROR_BYTES = 200  # a collector's answer fits
NAME_BYTES = 64
_WORD = 8  # each figure is one aligned 8-byte word, so a reader sees it whole
_EXPORTED, _FAILED, _DROPPED, _REACHED, _REFUSED, _SINCE = range(6)
_FLUSHED, _HEARTBEAT, _RECEIVED, _QUEUED, _ERROR_LENGTH = range(6, 11)
_LEFT_OUT, _NAME_LENGTH = 11, 12
_ERROR_START = 13 * _WORD
_NAME_START = _ERROR_START + ERROR_BYTES
_ROW_BYTES = _NAME_START + NAME_BYTES
_ROW_WORDS = _ROW_BYTES // _WORD

# Rows, then the states of the notes, then the notes: two for each row.
_STATES_START = ROWS * _ROW_BYTES
_NOTES_START = _STATES_START + 2 * ROWS
_PAGE_BYTES = _NOTES_START + 2 * ROWS * NOTE_BYTES


class Row:
    """One process's figures.

    Args:
        memory: The whole page.
        index: Which row.
    """

    __slots__ = ("_bytes", "_counts", "_times")

    def __init__(self, memory: memoryview, index: int) -> None:
        self._bytes = memory[index * _ROW_BYTES : (index + 1) * _ROW_BYTES]
        words = self._bytes[:_ERROR_START]
        self._counts = words.cast("Q")
        self._times = words.cast("d")

    def add_exported(self, count: int) -> None:
        """Count spans that the collector took."""
        self._counts[_EXPORTED] += count
        self._times[_REACHED] = time.monotonic()

    def add_failed(self, count: int) -> None:
        """Count spans whose export failed for good."""
        self._counts[_FAILED] += count
        self._note_refusal()

    def add_dropped(self, count: int) -> None:
        """Count spans that never reached an exporter."""
        self._counts[_DROPPED] += count

    def add_left_out(self, name: object) -> None:
        """Count a span that is not begun, and keep its name (``telemetry/suppression.py``)."""
        self._counts[_LEFT_OUT] += 1
        text = name if isinstance(name, str) else ""  # the SDK takes anything, too
        self._write(text, _NAME_START, NAME_BYTES, _NAME_LENGTH)

    def note_error(self, text: str) -> None:
        """Keep the last failed attempt; spans may still be delivered by a retry."""
        self._write(text, _ERROR_START, ERROR_BYTES, _ERROR_LENGTH)
        self._note_refusal()

    def _note_refusal(self) -> None:
        self._times[_REFUSED] = time.monotonic()
        if not self._times[_SINCE]:
            self._times[_SINCE] = self._times[_REFUSED]

    def add_received(self, count: int) -> None:
        """Count spans that the exporter process has read."""
        self._counts[_RECEIVED] += count

    def beat(self, queued: int) -> None:
        """Say that the exporter process lives, and what it has yet to send."""
        self._counts[_QUEUED] = queued
        self._times[_HEARTBEAT] = time.monotonic()

    @property
    def unaccounted(self) -> int:
        """Spans read, and neither exported nor lost: they die with the process."""
        return self.received - self.exported - self.failed - self.dropped

    @property
    def heartbeat(self) -> float:
        """Monotonic seconds of the exporter process's last sign of life."""
        return self._times[_HEARTBEAT]

    @property
    def received(self) -> int:
        """Spans that the exporter process has read."""
        return self._counts[_RECEIVED]

    @property
    def queued(self) -> int:
        """Spans that the exporter process has yet to send."""
        return self._counts[_QUEUED]

    @property
    def waiting(self) -> int:
        """Spans that this row's process keeps, for want of room in the channel."""
        return self._counts[_QUEUED]

    @waiting.setter
    def waiting(self, count: int) -> None:
        self._counts[_QUEUED] = count

    def drop_waiting(self) -> None:
        """Count as dropped what this process keeps, or one that was killed has kept."""
        self._counts[_DROPPED] += self._counts[_QUEUED]
        self._counts[_QUEUED] = 0

    @property
    def flushed(self) -> int:
        """The last flush token of this row's process that was carried out."""
        return self._counts[_FLUSHED]

    @flushed.setter
    def flushed(self, token: int) -> None:
        self._counts[_FLUSHED] = max(token, self._counts[_FLUSHED])

    @property
    def exported(self) -> int:
        """Spans the collector took."""
        return self._counts[_EXPORTED]

    @property
    def failed(self) -> int:
        """Spans whose export failed for good."""
        return self._counts[_FAILED]

    @property
    def dropped(self) -> int:
        """Spans that never reached an exporter."""
        return self._counts[_DROPPED]

    @property
    def reached(self) -> float:
        """Monotonic seconds of the last success; 0 for never."""
        return self._times[_REACHED]

    @property
    def refused(self) -> float:
        """Monotonic seconds of the last failed attempt; 0 for never."""
        return self._times[_REFUSED]

    @property
    def error(self) -> str:
        """The last failure, shortened."""
        return self._text(_ERROR_START, self._counts[_ERROR_LENGTH])

    @property
    def left_out(self) -> int:
        """Spans that were not begun."""
        return self._counts[_LEFT_OUT]

    @property
    def left_out_name(self) -> str:
        """The name of the last one, shortened."""
        return self._text(_NAME_START, self._counts[_NAME_LENGTH])

    def _write(self, text: str, start: int, limit: int, length: int) -> None:
        """Write a text of so many bytes at most; ``length`` is the word for its length."""
        data = text.encode("utf-8", "replace")[:limit]
        self._bytes[start : start + len(data)] = data
        self._counts[length] = len(data)

    def _text(self, start: int, length: int) -> str:
        return bytes(self._bytes[start : start + length]).decode("utf-8", "replace")


class Counters:
    """The shared page of a worker: ``rows``, and sums over them.

    Args:
        descriptor: A page made by the main process, inherited by a spawned child;
            None makes a new page.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _new_page() if descriptor is None else descriptor
        self._inode = os.fstat(self.descriptor).st_ino
        memory = memoryview(mmap.mmap(self.descriptor, _PAGE_BYTES))
        self.rows = [Row(memory, index) for index in range(ROWS)]
        # A figure of all rows is words[figure::_ROW_WORDS].
        words = memory[:_STATES_START]
        self._counts, self._times = words.cast("Q"), words.cast("d")
        self._states = memory[_STATES_START:_NOTES_START]
        notes, size = memory[_NOTES_START:], 2 * NOTE_BYTES
        self.notes = [
            RunNotes(
                notes[row * size : (row + 1) * size],
                self._states[2 * row : 2 * (row + 1)],
            )
            for row in range(ROWS)
        ]

    def run_notes(self) -> Iterator[tuple[int, RunNote, bool]]:
        """Yield pool slot and note of each run, and whether its process is surely gone."""
        states = bytes(self._states)
        found = states.find(RUNNING)
        while found >= 0:
            row, is_before = divmod(found, 2)
            notes = self.notes[row]
            note = notes.before if is_before else notes.current
            yield row - POOL_ROWS.start, note, bool(is_before)
            found = states.find(RUNNING, found + 1)

    def claim(self) -> bool:
        """Claim what one process at a time may do; it is free again when that ends."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def descriptors(self) -> list[int]:
        """Return the number that ``close_open_fds`` must leave open."""
        try:
            is_ours = os.fstat(self.descriptor).st_ino == self._inode
        except OSError:
            return []
        return [self.descriptor] if is_ours else []

    @property
    def exported(self) -> int:
        """Spans the collector took, over all processes."""
        return sum(self._counts[_EXPORTED::_ROW_WORDS])

    @property
    def queued(self) -> int:
        """Spans that wait for room or in the exporter process, or are being sent."""
        exporter = self.rows[EXPORTER_ROW]
        kept = sum(self._counts[_QUEUED::_ROW_WORDS]) - exporter.queued
        return kept + max(exporter.queued, exporter.unaccounted)

    @property
    def left_out(self) -> int:
        """Spans that were not begun, over all processes."""
        return sum(self._counts[_LEFT_OUT::_ROW_WORDS])

    @property
    def left_out_name(self) -> str:
        """The name of the last one in the process that left out most."""
        return max(self.rows, key=lambda row: row.left_out).left_out_name

    @property
    def lost(self) -> int:
        """Spans that are gone, over all processes."""
        failed, dropped = (
            self._counts[each::_ROW_WORDS] for each in (_FAILED, _DROPPED)
        )
        return sum(failed) + sum(dropped)

    @property
    def reached(self) -> float:
        """Monotonic seconds of the last success of any process; 0 for never."""
        return max(self._times[_REACHED::_ROW_WORDS])

    @property
    def refused(self) -> float:
        """Monotonic seconds of the last failed attempt of any process; 0 for never."""
        return max(self._times[_REFUSED::_ROW_WORDS])

    @property
    def error(self) -> str:
        """The last failure of any process."""
        return max(self.rows, key=lambda row: row.refused).error

    @property
    def is_hopeless(self) -> bool:
        """Whether attempts have failed for a while and none ever succeeded."""
        return self.hopeless_for >= NEVER_REACHED_SECONDS

    @property
    def hopeless_for(self) -> float:
        """Seconds that attempts have failed and none ever succeeded; 0 otherwise."""
        since = [each for each in self._times[_SINCE::_ROW_WORDS] if each]
        if not since or self.reached:
            return 0.0
        return time.monotonic() - min(since)


def _new_page() -> int:
    """Return a descriptor of zeroed memory without a name."""
    if hasattr(os, "memfd_create"):
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        descriptor = os.memfd_create("otel-celery-counters", flags)
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    descriptor = above_standard(descriptor)
    try:
        os.ftruncate(descriptor, _PAGE_BYTES)
        # Whoever makes a mapped file shorter kills all that map it, by SIGBUS.
        if hasattr(fcntl, "F_ADD_SEALS"):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:  # over RLIMIT_FSIZE
        os.close(descriptor)
        raise
    return descriptor
