# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The layout of the counters' page, and the rows in it: ``counters.py`` has the whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.in_flight import RECORD_BYTES

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
REACHED, REFUSED, SINCE, _HEARTBEAT = range(4)
_ERROR_LENGTH, LEFT_OUT, _NAME_LENGTH, EPOCH, _REPEATED = range(4, 9)
_SPOOLS, _NOTICE_LENGTH = range(9, 11)
QUEUES = 2  # of the exporter process: for spans, for log records
KEPT = 11  # and one for each further queue
EXPORTED, FAILED, DROPPED, _RECEIVED, QUEUED, _FLUSHED = _FIGURES = range(6)
_LOGS_FAIL = KEPT + QUEUES
_FIRST_BLOCK = _LOGS_FAIL + 1
_WORDS = _FIRST_BLOCK + SIGNALS * len(_FIGURES)
_ERROR_START = _WORDS * _WORD
_NAME_START = _ERROR_START + ERROR_BYTES
_NOTICE_START = _NAME_START + NAME_BYTES
ROW_BYTES = _NOTICE_START + NOTICE_BYTES
ROW_WORDS = ROW_BYTES // _WORD

# Which rows are used, one byte each; the states of the records; rows; records.
STATES_START = ROWS
ROWS_START = STATES_START + RECORDS
RECORDS_START = ROWS_START + ROWS * ROW_BYTES
PAGE_BYTES = RECORDS_START + RECORDS * RECORD_BYTES

# Bytes of the page that are locked: for the right to supervise, and for each record.
SUPERVISION_LOCK, FIRST_RECORD_LOCK = 0, 1


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

    exported = _Figure(EXPORTED, "Items that the collector took.")
    failed = _Figure(FAILED, "Items whose export failed for good.")
    dropped = _Figure(DROPPED, "Items that never reached an exporter.")
    received = _Figure(_RECEIVED, "Items that the exporter process has read.")
    queued = _Figure(QUEUED, "Items that wait in this process, or are being sent.")
    flushed = _Figure(_FLUSHED, "The last flush of this process that was carried out.")

    def __init__(self, row: Row, words: memoryview) -> None:
        self._row = row
        self.words = words

    def add_exported(self, count: int) -> None:
        """Count items that the collector took."""
        self.words[EXPORTED] += count
        self._row.note_success()

    def add_sent(self, count: int) -> None:
        """Count what the collector took; says nothing of whether others reach it."""
        self.words[EXPORTED] += count

    def add_failed(self, count: int) -> None:
        """Count items whose export failed for good."""
        self.words[FAILED] += count

    def add_dropped(self, count: int) -> None:
        """Count items that never reached an exporter."""
        self.words[DROPPED] += count

    def add_received(self, count: int) -> None:
        """Count items that the exporter process has read."""
        self.words[_RECEIVED] += count

    def note_queued(self, count: int) -> None:
        """Say how many items wait in this process, or are being sent."""
        self.words[QUEUED] = count

    def note_flushed(self, token: int) -> None:
        """Record that a flush was carried out; ignore an earlier token."""
        self.words[_FLUSHED] = max(token, self.words[_FLUSHED])

    def drop_queued(self) -> None:
        """Count the queued items of this process, or its predecessor, as dropped."""
        self.words[DROPPED] += self.words[QUEUED]
        self.words[QUEUED] = 0

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
        start = block(signal)
        return Figures(self, self._counts[start : start + len(_FIGURES)])

    def add_left_out(self, name: object) -> None:
        """Count a suppressed span and keep its name (``telemetry/suppression.py``)."""
        self._counts[LEFT_OUT] += 1
        text = name if isinstance(name, str) else ""  # the SDK takes anything, too
        self._write(text, _NAME_START, NAME_BYTES, _NAME_LENGTH)

    def note_error(self, text: str) -> None:
        """Keep the last failed attempt; items may still be delivered by a retry."""
        self._write(text, _ERROR_START, ERROR_BYTES, _ERROR_LENGTH)
        self.note_failure()

    def note_last_words(self, text: str) -> None:
        """Keep why the exporter process ends: no attempt has failed by it."""
        self._write(text, _ERROR_START, ERROR_BYTES, _ERROR_LENGTH)
        self._times[REFUSED] = time.monotonic()

    def note_success(self) -> None:
        """Note that the collector has taken something now."""
        self._times[REACHED] = time.monotonic()

    def note_failure(self) -> None:
        """Note that an attempt has failed now."""
        self._times[REFUSED] = time.monotonic()
        if not self._times[SINCE]:
            self._times[SINCE] = self._times[REFUSED]

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

    def note_logs_fail(self, fail: bool) -> None:
        """Say whether attempts to send log records fail (exporter process)."""
        self._counts[_LOGS_FAIL] = fail

    @property
    def logs_fail(self) -> bool:
        """Whether attempts to send log records fail."""
        return bool(self._counts[_LOGS_FAIL])

    def words(self, index: int, count: int = 1) -> memoryview:
        """Return some words, which are read and written without a call."""
        return self._counts[index : index + count]

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
        return self._times[REFUSED]

    @property
    def error(self) -> str:
        """The last failure, shortened."""
        return self._text(_ERROR_START, self._counts[_ERROR_LENGTH])

    @property
    def left_out(self) -> int:
        """Spans that were not begun."""
        return self._counts[LEFT_OUT]

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
        self._memory = memory[ROWS_START:RECORDS_START]
        self._counts = self._memory.cast("Q")
        self._times = self._memory.cast("d")
        self._found: dict[int, Row] = {}

    def __getitem__(self, index: int) -> Row:
        row = self._found.get(index)
        if row is None:
            memory = self._memory[index * ROW_BYTES : (index + 1) * ROW_BYTES]
            if len(memory) != ROW_BYTES:
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
        return self._counts[index : self._count() * ROW_WORDS : ROW_WORDS]

    def times(self, index: int) -> memoryview[float]:
        """Return one word of each row that is used, as seconds."""
        return self._times[index : self._count() * ROW_WORDS : ROW_WORDS]


def block(signal: Signal) -> int:
    """Return the word at which the figures of a signal begin.

    Raises:
        ValueError: There is no room for a signal of that number.
    """
    if not 1 <= signal.number <= SIGNALS:
        raise ValueError(f"{signal.name} has the number {signal.number}")
    return _FIRST_BLOCK + (signal.number - 1) * len(_FIGURES)
