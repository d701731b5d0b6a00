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
import re
import time
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.counter_rows import (
    DROPPED,
    EPOCH,
    EXPORTED,
    EXPORTER_ROW,
    FAILED,
    FIRST_RECORD_LOCK,
    KEPT,
    LEFT_OUT,
    NEVER_REACHED_SECONDS,
    PAGE_BYTES,
    QUEUED,
    QUEUES,
    REACHED,
    RECORDS,
    RECORDS_START,
    REFUSED,
    ROWS_START,
    SINCE,
    STATES_START,
    SUPERVISION_LOCK,
    Rows,
    block,
)
from otel_celery_launcher.ipc.in_flight import (
    NONE,
    RECORD_BYTES,
    InFlightRecord,
)
from otel_celery_launcher.ipc.shared_memory import SharedMemory, new_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.signals import Signal


class Totals:
    """The figures of one signal over all processes of a worker.

    Args:
        rows: All rows.
        signal: The signal.
    """

    def __init__(self, rows: Rows, signal: Signal) -> None:
        self._rows = rows
        self._start = block(signal)
        self._exporter = rows[EXPORTER_ROW].of(signal)

    def _sum(self, figure: int) -> int:
        return sum(self._rows.words(self._start + figure))

    @property
    def exported(self) -> int:
        """Items that the collector took."""
        return self._sum(EXPORTED)

    @property
    def failed(self) -> int:
        """Items whose export failed for good."""
        return self._sum(FAILED)

    @property
    def dropped(self) -> int:
        """Items that never reached an exporter."""
        return self._sum(DROPPED)

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
        return self._sum(QUEUED) - in_queue + max(in_queue, unaccounted)


_NOT_NONE = re.compile(b"[^%c]" % NONE, re.DOTALL)


class Counters:
    """The shared page of a worker: ``rows``, records of runs, and sums.

    Attributes:
        resource_epoch: One word. A process that has sent its resource in another epoch
            sends it again before its next items: the exporter process may have had to
            forget it.
        has_kept: One word a queue: not 0 if the supervisor has received messages that
            the exporter process is to take over (``routes/keeper.py``).

    Args:
        descriptor: A page made by the main process, inherited by a spawned child;
            None makes a new page.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = (
            new_memory("otel-celery-counters", PAGE_BYTES)
            if descriptor is None
            else descriptor
        )
        self._shared = SharedMemory(self.descriptor)
        memory = memoryview(mmap.mmap(self.descriptor, PAGE_BYTES))
        self.rows = Rows(memory)
        self.resource_epoch = self.rows[EXPORTER_ROW].words(EPOCH)
        self.has_kept = self.rows[EXPORTER_ROW].words(KEPT, QUEUES)
        self._states = memory[STATES_START:ROWS_START]
        self._records = memory[RECORDS_START:]
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
                if not self._lock(FIRST_RECORD_LOCK + index):
                    continue
                if self._states[index] == NONE:
                    self._claimed[index] = os.getpid()
                    record = self.in_flight_record(index, slot)
                    record.take(os.getpid())
                    return record
        return None

    def in_flight_records(self) -> Iterator[InFlightRecord]:
        """Yield the record of each run; most of the two thousand have none."""
        for found in _NOT_NONE.finditer(bytes(self._states)):
            yield self.in_flight_record(found.start())

    def last_run_of(self, pid: int) -> tuple[str, bool] | None:
        """Return the task's id of the last run that a process has recorded.

        Args:
            pid: Of the process.

        Returns:
            The id, empty if there was no run, and whether the run has not ended. None if
            the process has no record, or another one has taken it over.
        """
        found = None
        for index in range(RECORDS):
            record = self.in_flight_record(index)
            if record.pid != pid:
                continue
            if record.read() is not None:
                return record.task_id, True
            found = (record.task_id, False)
        return found

    def claim_supervision(self) -> bool:
        """Try to become the process that supervises; its end releases the lock."""
        return self._lock(SUPERVISION_LOCK)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def descriptors(self) -> list[int]:
        """Return the descriptor, as a list; empty if it is no longer ours."""
        return self._shared.descriptors()

    def begin_resource_epoch(self) -> None:
        """Make all processes send their resources again (exporter process)."""
        self.resource_epoch[0] += 1

    @property
    def left_out(self) -> int:
        """Spans that were not begun, over all processes."""
        return sum(self.rows.words(LEFT_OUT))

    @property
    def left_out_name(self) -> str:
        """The name of the last suppressed span in the process that suppressed most."""
        return max(self.rows, key=lambda row: row.left_out).left_out_name

    @property
    def reached(self) -> float:
        """Monotonic seconds of the last success of any process; 0 for never."""
        return max(self.rows.times(REACHED))

    @property
    def refused(self) -> float:
        """Monotonic seconds of the last failed attempt of any process; 0 for never."""
        return max(self.rows.times(REFUSED))

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
        since = [start for start in self.rows.times(SINCE) if start]
        if not since or self.reached:
            return 0.0
        return time.monotonic() - min(since)
