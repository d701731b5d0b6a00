# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Counters of delivery in memory that all processes of a worker share.

Made by the main process before its first fork. A pool child writes the row of its slot,
so a recycled child continues its predecessor's counts; the main process reads all rows.
There is no lock: a row has one writing process at a time, and a reader of a
half-written row reports a slightly old figure. Processes that a program under ``exec``
forks share a row, and may lose a count if they write at the same moment.

Rows and records of runs are memory that is allocated when it is used, so there may be
many of them.

A row contains data of the process (times, last error) and a block of figures for each
signal (``signals.py``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.in_flight import (
    NONE,
    RECORD_BYTES,
    RUNNING,
    InFlightRecord,
)
from otel_celery_launcher.ipc.shared_memory import new_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.signals import Signal

# Main process, exporter process, embedded beat, pool slots. Higher slots wrap around to
# the first pool row.
ROWS = 2048
MAIN_ROW, EXPORTER_ROW, BEAT_ROW = range(3)
POOL_ROWS = range(3, ROWS)

# Records of runs in flight, and of dead processes whose runs were not ended yet.
RECORDS = 4096

# How many signals there may be; their numbers begin with 1.
SIGNALS = 4

# If no collector was ever reached, a longer wait would only delay the stop.
NEVER_REACHED_SECONDS = 0.5

ERROR_BYTES = 256  # enough for a collector's answer, or a bug's place and message
NAME_BYTES = 64
NOTICE_BYTES = 512  # a sentence with a path

# Each figure is one aligned 8-byte word, so a reader sees it whole. First those of the
# process, then a block for each signal, then the texts.
_WORD = 8
_REACHED, _REFUSED, _SINCE, _HEARTBEAT = range(4)
_ERROR_LENGTH, _LEFT_OUT, _NAME_LENGTH, _EPOCH, _REPEATED = range(4, 9)
_SPOOLS, _NOTICE_LENGTH, _KEPT = range(9, 12)
_EXPORTED, _FAILED, _DROPPED, _RECEIVED, _QUEUED, _FLUSHED = _FIGURES = range(6)
_FIRST_BLOCK = 12
_WORDS = _FIRST_BLOCK + SIGNALS * len(_FIGURES)
_ERROR_START = _WORDS * _WORD
_NAME_START = _ERROR_START + ERROR_BYTES
_NOTICE_START = _NAME_START + NAME_BYTES
_ROW_BYTES = _NOTICE_START + NOTICE_BYTES
_ROW_WORDS = _ROW_BYTES // _WORD

# Which rows are used, one byte each; the states of the records; rows; records.
_STATES_START = ROWS
_ROWS_START = _STATES_START + RECORDS
_RECORDS_START = _ROWS_START + ROWS * _ROW_BYTES
_PAGE_BYTES = _RECORDS_START + RECORDS * RECORD_BYTES

# Bytes of the page that are locked: for the right to supervise, and for each record.
_SUPERVISION_LOCK, _FIRST_RECORD_LOCK = 0, 1


class _Figure:
    """A word of a block of figures, as an attribute.

    Args:
        index: Which word.
        text: What it counts.
    """

    def __init__(self, index: int, text: str) -> None:
        self._index = index
        self.__doc__ = text

    def __get__(self, figures: Figures, owner: object = None) -> int:
        return figures.words[self._index]


class Figures:
    """What one process has counted of one signal.

    Several threads may count at once: each ``add_`` is one read and one write, and the
    interpreter does not switch threads between them.

    Args:
        row: The process's row.
        words: The block.
    """

    __slots__ = ("_row", "words")

    exported = _Figure(_EXPORTED, "Items that the collector took.")
    failed = _Figure(_FAILED, "Items whose export failed for good.")
    dropped = _Figure(_DROPPED, "Items that never reached an exporter.")
    received = _Figure(_RECEIVED, "Items that the exporter process has read.")
    queued = _Figure(_QUEUED, "Items that wait in this process, or are being sent.")
    flushed = _Figure(_FLUSHED, "The last flush of this process that was carried out.")

    def __init__(self, row: Row, words: memoryview) -> None:
        self._row = row
        self.words = words

    def add_exported(self, count: int) -> None:
        """Count items that the collector took."""
        self.words[_EXPORTED] += count
        self._row.note_success()

    def add_failed(self, count: int) -> None:
        """Count items whose export failed for good."""
        self.words[_FAILED] += count

    def add_dropped(self, count: int) -> None:
        """Count items that never reached an exporter."""
        self.words[_DROPPED] += count

    def add_received(self, count: int) -> None:
        """Count items that the exporter process has read."""
        self.words[_RECEIVED] += count

    def note_queued(self, count: int) -> None:
        """Say how many items wait in this process, or are being sent."""
        self.words[_QUEUED] = count

    def note_flushed(self, token: int) -> None:
        """Record that a flush was carried out; ignore an earlier token."""
        self.words[_FLUSHED] = max(token, self.words[_FLUSHED])

    def drop_queued(self) -> None:
        """Count the queued items of this process, or its predecessor, as dropped."""
        self.words[_DROPPED] += self.words[_QUEUED]
        self.words[_QUEUED] = 0

    @property
    def unaccounted(self) -> int:
        """Items received but not yet exported or lost: lost if the process dies."""
        return self.received - self.exported - self.failed - self.dropped


class Row:
    """One process's counters.

    Args:
        memory: The bytes of the row.
    """

    __slots__ = ("_bytes", "_counts", "_times")

    def __init__(self, memory: memoryview) -> None:
        self._bytes = memory
        words = self._bytes[:_ERROR_START]
        self._counts = words.cast("Q")
        self._times = words.cast("d")

    def of(self, signal: Signal) -> Figures:
        """Return the figures of a signal."""
        start = _block(signal)
        return Figures(self, self._counts[start : start + len(_FIGURES)])

    def add_left_out(self, name: object) -> None:
        """Count a suppressed span and keep its name (``telemetry/suppression.py``)."""
        self._counts[_LEFT_OUT] += 1
        text = name if isinstance(name, str) else ""  # the SDK takes anything, too
        self._write(text, _NAME_START, NAME_BYTES, _NAME_LENGTH)

    def note_error(self, text: str) -> None:
        """Keep the last failed attempt; items may still be delivered by a retry."""
        self._write(text, _ERROR_START, ERROR_BYTES, _ERROR_LENGTH)
        self.note_failure()

    def note_last_words(self, text: str) -> None:
        """Keep why the exporter process ends: no attempt has failed by it."""
        self._write(text, _ERROR_START, ERROR_BYTES, _ERROR_LENGTH)
        self._times[_REFUSED] = time.monotonic()

    def note_success(self) -> None:
        """Note that the collector has taken something now."""
        self._times[_REACHED] = time.monotonic()

    def note_failure(self) -> None:
        """Note that an attempt has failed now."""
        self._times[_REFUSED] = time.monotonic()
        if not self._times[_SINCE]:
            self._times[_SINCE] = self._times[_REFUSED]

    def note_heartbeat(self) -> None:
        """Say that the exporter process lives."""
        self._times[_HEARTBEAT] = time.monotonic()

    def note_no_heartbeat(self) -> None:
        """Say that the exporter process has ended (supervisor)."""
        self._times[_HEARTBEAT] = 0.0

    def note_notice(self, text: str) -> None:
        """Keep a sentence for the worker's log: the exporter process has none."""
        self._write(text, _NOTICE_START, NOTICE_BYTES, _NOTICE_LENGTH)

    @property
    def notice(self) -> str:
        """The last sentence for the worker's log; empty for none."""
        return self._text(_NOTICE_START, self._counts[_NOTICE_LENGTH])

    def note_spools(self, spools: bool) -> None:
        """Say whether what the exporter process has is in a file."""
        self._counts[_SPOOLS] = spools

    @property
    def spools(self) -> bool:
        """Whether what waits in the exporter process's queue outlives the worker."""
        return bool(self._counts[_SPOOLS])

    def add_repeated(self, count: int) -> None:
        """Count items that may arrive twice (exporter process, when it starts)."""
        self._counts[_REPEATED] += count

    def word(self, index: int) -> memoryview:
        """Return one word, which is read and written without a call."""
        return self._counts[index : index + 1]

    @property
    def repeated(self) -> int:
        """Items that may have arrived twice: their sender was killed while it sent them."""
        return self._counts[_REPEATED]

    @property
    def heartbeat(self) -> float:
        """Monotonic seconds of the exporter process's last sign of life."""
        return self._times[_HEARTBEAT]

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
        """Write a text of ``limit`` bytes at most; ``length`` is the word for its length."""
        data = text.encode("utf-8", "replace")[:limit]
        self._bytes[start : start + len(data)] = data
        self._counts[length] = len(data)

    def _text(self, start: int, length: int) -> str:
        return bytes(self._bytes[start : start + length]).decode("utf-8", "replace")


class Rows:
    """The rows of a page; those that no process has asked for are not read.

    Args:
        memory: The whole page.
    """

    def __init__(self, memory: memoryview) -> None:
        self._is_used = memory[:ROWS]
        self._memory = memory[_ROWS_START:_RECORDS_START]
        self._counts = self._memory.cast("Q")
        self._times = self._memory.cast("d")
        self._found: dict[int, Row] = {}

    def __getitem__(self, index: int) -> Row:
        row = self._found.get(index)
        if row is None:
            memory = self._memory[index * _ROW_BYTES : (index + 1) * _ROW_BYTES]
            if len(memory) != _ROW_BYTES:
                raise IndexError(index)
            self._is_used[index] = 1
            row = self._found[index] = Row(memory)
        return row

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows up to the last one that is used."""
        return (self[index] for index in range(self._count()))

    def _count(self) -> int:
        return bytes(self._is_used).rfind(1) + 1

    def words(self, index: int) -> memoryview:
        """Return one word of each row that is used, as an integer."""
        return self._counts[index : self._count() * _ROW_WORDS : _ROW_WORDS]

    def times(self, index: int) -> memoryview[float]:
        """Return one word of each row that is used, as seconds."""
        return self._times[index : self._count() * _ROW_WORDS : _ROW_WORDS]


class Totals:
    """The figures of one signal over all processes of a worker.

    Args:
        rows: All rows.
        signal: The signal.
    """

    def __init__(self, rows: Rows, signal: Signal) -> None:
        self._rows = rows
        self._start = _block(signal)
        self._exporter = rows[EXPORTER_ROW].of(signal)

    def _sum(self, figure: int) -> int:
        return sum(self._rows.words(self._start + figure))

    @property
    def exported(self) -> int:
        """Items that the collector took."""
        return self._sum(_EXPORTED)

    @property
    def failed(self) -> int:
        """Items whose export failed for good."""
        return self._sum(_FAILED)

    @property
    def dropped(self) -> int:
        """Items that never reached an exporter."""
        return self._sum(_DROPPED)

    @property
    def lost(self) -> int:
        """Items that are gone."""
        return self.failed + self.dropped

    @property
    def received(self) -> int:
        """Items that the exporter process has read."""
        return self._exporter.received

    @property
    def queued(self) -> int:
        """Items in a backlog, in the exporter process's queue, or being sent."""
        in_queue = self._exporter.queued
        unaccounted = self._exporter.unaccounted
        return self._sum(_QUEUED) - in_queue + max(in_queue, unaccounted)


class Counters:
    """The shared page of a worker: ``rows``, records of runs, and sums.

    Attributes:
        resource_epoch: One word. A process that has sent its resource in another epoch
            sends it again before its next items: the exporter process may have had to
            forget it.
        has_kept: One word: not 0 if the supervisor has received messages that the
            exporter process is to take over (``routes/keeper.py``).

    Args:
        descriptor: A page made by the main process, inherited by a spawned child;
            None makes a new page.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = (
            new_memory("otel-celery-counters", _PAGE_BYTES)
            if descriptor is None
            else descriptor
        )
        self._inode = os.fstat(self.descriptor).st_ino
        memory = memoryview(mmap.mmap(self.descriptor, _PAGE_BYTES))
        self.rows = Rows(memory)
        self.resource_epoch = self.rows[EXPORTER_ROW].word(_EPOCH)
        self.has_kept = self.rows[EXPORTER_ROW].word(_KEPT)
        self._states = memory[_STATES_START:_ROWS_START]
        self._records = memory[_RECORDS_START:]
        self._claimed: dict[int, int] = {}  # record: process

    def of(self, signal: Signal) -> Totals:
        """Return the sums of a signal's figures."""
        return Totals(self.rows, signal)

    def in_flight_record(self, index: int, slot: int = 0) -> InFlightRecord:
        """Return a record, for a run of a pool slot."""
        start = index * RECORD_BYTES
        return InFlightRecord(
            self._records[start : start + RECORD_BYTES],
            self._states[index : index + 1],
            slot,
        )

    def claim_record(self, slot: int) -> InFlightRecord | None:
        """Return a record of this process's own; None if all are taken.

        The record of a dead process is not taken before its run was ended. A lock, which
        the kernel releases when a process ends, keeps two processes from one record.

        Args:
            slot: Of the pool; its own number is tried first.
        """
        for index in (*range(slot, RECORDS), *range(min(slot, RECORDS))):
            is_mine = self._claimed.get(index) == os.getpid()
            if self._states[index] == NONE and not is_mine:
                if not self._lock(_FIRST_RECORD_LOCK + index):
                    continue
                if self._states[index] == NONE:
                    self._claimed[index] = os.getpid()
                    return self.in_flight_record(index, slot)
        return None

    def in_flight_records(self) -> Iterator[InFlightRecord]:
        """Yield the record of each run."""
        states = bytes(self._states)
        index = states.find(RUNNING)
        while index >= 0:
            yield self.in_flight_record(index)
            index = states.find(RUNNING, index + 1)

    def claim_supervision(self) -> bool:
        """Try to become the process that supervises; its end releases the lock."""
        return self._lock(_SUPERVISION_LOCK)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def descriptors(self) -> list[int]:
        """Return the descriptor, as a list; empty if it is no longer ours."""
        try:
            is_ours = os.fstat(self.descriptor).st_ino == self._inode
        except OSError:
            return []
        return [self.descriptor] if is_ours else []

    def begin_resource_epoch(self) -> None:
        """Make all processes send their resources again (exporter process)."""
        self.resource_epoch[0] += 1

    @property
    def left_out(self) -> int:
        """Spans that were not begun, over all processes."""
        return sum(self.rows.words(_LEFT_OUT))

    @property
    def left_out_name(self) -> str:
        """The name of the last suppressed span in the process that suppressed most."""
        return max(self.rows, key=lambda row: row.left_out).left_out_name

    @property
    def reached(self) -> float:
        """Monotonic seconds of the last success of any process; 0 for never."""
        return max(self.rows.times(_REACHED))

    @property
    def refused(self) -> float:
        """Monotonic seconds of the last failed attempt of any process; 0 for never."""
        return max(self.rows.times(_REFUSED))

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt of any process has failed."""
        return self.refused > self.reached

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
        since = [start for start in self.rows.times(_SINCE) if start]
        if not since or self.reached:
            return 0.0
        return time.monotonic() - min(since)


def _block(signal: Signal) -> int:
    """Return the word at which the figures of a signal begin.

    Raises:
        ValueError: There is no room for a signal of that number.
    """
    if not 1 <= signal.number <= SIGNALS:
        raise ValueError(f"{signal.name} has the number {signal.number}")
    return _FIRST_BLOCK + (signal.number - 1) * len(_FIGURES)
