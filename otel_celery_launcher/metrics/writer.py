# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A process's own row of the page: it finds a series, or makes it.

Runs in the thread that measures something. A process claims its row at its first
measurement. A forked process has to claim one of its own, whoever forked it: the word
that says that the row is ours lies in memory that the kernel clears in every child
(MADV_WIPEONFORK), so that C code that forks (uWSGI) needs no hook, and a measurement
makes no system call to ask which process it is in.

Nothing here catches ``Exception``: soft time limits are raised at any bytecode.
"""

from __future__ import annotations

import math
import mmap
import os
from _thread import RLock
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.marshalled import READ_ERRORS
from otel_celery_launcher.metrics.layout import (
    EXEMPLARS,
    KEY_BYTES,
    OF_THE_LIVING,
    OVERFLOW,
    SETS,
    WORD,
    Kind,
    key_of,
    read_key,
)
from otel_celery_launcher.metrics.page import (
    BUSY,
    FULL,
    MEASUREMENTS,
    SEGMENT_BYTES,
    VOID,
    DamagedPageError,
    read_series,
    segment_range,
    series_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.metrics.layout import Description, Items
    from otel_celery_launcher.metrics.page import MetricPage, Series

# Linux 4.14 and later (madvise(2)); Python's mmap has no name for it.
_MADV_WIPEONFORK = 18

# The scope of the built-in metrics, for which some room is kept.
OWN_SCOPE = "otel_celery_launcher"

# Where measurements go that have no series: a segment that nobody reads.
VOID_CELLS = segment_range(VOID)[0] // WORD


class Writer:
    """Finds and makes the series of one process; a forked one begins anew.

    Attributes:
        is_ready: One byte: not 0 if this process has claimed its row.
        lock: Held while cells are changed, since ``cells[i] += 1`` reads and writes. A
            signal handler may measure while its thread holds it.
        has_exemplars: Whether series have room for exemplars.

    Args:
        page: The page.
        purpose: What the row is for.
        has_exemplars: As above.
    """

    def __init__(
        self,
        page: MetricPage,
        purpose: int = MEASUREMENTS,
        *,
        has_exemplars: bool = False,
    ) -> None:
        self.page = page
        self.has_exemplars = has_exemplars
        self._purpose = purpose
        self.lock = RLock()
        self.is_ready = _wiped_by_fork(self)
        self._claiming: dict[int, RLock] = {}  # by process
        self._forget: list[Callable[[], object]] = []
        self._on_ready: list[Callable[[], object]] = []
        self._start()

    def _start(self) -> None:
        self.row = -1
        self._segment = 0
        self._position = self._end = 0
        self._cells: dict[bytes, int] = {}
        self._sets: dict[tuple[str, bytes], int] = {}
        self._has_begun = self._is_beginning = False

    def on_new_process(
        self,
        forget: Callable[[], object],
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        """Call something in each process that claims a row.

        Args:
            forget: Called before: cells of another process are not to be used.
            begin: Called once the row is there.
        """
        self._forget.append(forget)
        self._on_ready.append(begin)

    def prepare(self) -> None:
        """Claim a row in this process, unless it has one."""
        pid = os.getpid()
        # Of two threads one claims; the lock of a parent may be held by a thread that
        # does not exist here.
        with self._claiming.setdefault(pid, RLock()):
            if self.is_ready[0]:
                return
            for forget in self._forget:
                forget()
            self.lock = RLock()
            self._claim()
            self.is_ready[0] = 1
            self._claiming = {pid: self._claiming[pid]}
        self._begin()

    def _begin(self) -> None:
        """Do what follows the first measurement; again at the next, if it is cut short."""
        if self._is_beginning:
            return
        self._is_beginning = True
        try:
            for begin in self._on_ready:
                begin()
            self._has_begun = True
        except RuntimeError:  # no thread is left
            return
        finally:
            self._is_beginning = False

    def release(self) -> None:
        """Leave the row to another process."""
        if self.is_ready[0] and self.row >= 0:
            self.page.release(self.row)
        self.is_ready[0] = 0

    def cells(self, description: Description, items: Items) -> tuple[int, bool]:
        """Return where the cells of a series begin, and whether that stays so.

        Args:
            description: The instrument.
            items: Attributes, as of ``layout.clean_items``.
        """
        if not self.is_ready[0]:
            self.prepare()
        elif not self._has_begun:
            self._begin()
        with self.lock:
            key = key_of(description, items)
            cells = self._cells.get(key)
            if cells is not None:
                return cells, True
            instrument = _instrument_of(description)
            if self._sets.get(instrument, 0) >= SETS and items != OVERFLOW:
                return self.cells(description, OVERFLOW)
            found = self._add(description, items, key)
        if found is None:  # there is no room for one of its own
            return self.cells(description, OVERFLOW)
        return found

    def _claim(self) -> None:
        """Claim a row whose series can be read."""
        self._start()
        first = 0
        while claimed := self.page.claim(self._purpose, first):
            row, is_taken_over = claimed
            try:
                self._read(row, is_taken_over=is_taken_over)
            except (DamagedPageError, *READ_ERRORS):
                self.page.give_up(row)
                self._start()
                first = row + 1
                continue
            except BaseException:  # a soft time limit: the next measurement claims one
                self.page.release(row)
                raise
            self.row = row
            return

    def _read(self, row: int, *, is_taken_over: bool) -> None:
        """Go on where another process has stopped."""
        for series in self.page.series(row):
            description, _ = read_series(series)
            if is_taken_over and self._purpose == MEASUREMENTS:
                self._take_over(series)
            self._keep(description, series)
        segments = self.page.segments(row)
        if segments:
            self._segment = segments[-1]
            start, self._end = segment_range(self._segment)
            self._position = start
            while series_there := self.page.series_at(self._position, self._end):
                self._position = (series_there.cells + series_there.words) * WORD

    def _take_over(self, series: Series) -> None:
        """End what ended with the process that had the row."""
        values, cells = self.page.values, series.cells
        kind = Kind(series.kind)
        if kind is Kind.UP_DOWN:
            values[cells] = 0.0
        elif kind is Kind.OBSERVED_COUNTER:
            # Each step can be the last, and all can be done again.
            if not values[cells + 3]:
                values[cells + 3] = values[cells] + values[cells + 1]
            values[cells] = values[cells + 3]
            values[cells + 1] = 0.0
            values[cells + 3] = 0.0
        elif kind in OF_THE_LIVING:
            values[cells + 1] = 0.0  # the time: there is no value

    def _add(
        self, description: Description, items: Items, key: bytes
    ) -> tuple[int, bool] | None:
        """Make a series; return where its cells begin, and whether that stays so.

        None if there is no room for it, but for one that stands for several.
        """
        self._adopt()
        if (cells := self._cells.get(key)) is not None:
            return cells, True
        values = self._first_values(description)
        size = series_bytes(key, len(values))
        if self.row < 0:
            return VOID_CELLS, True
        is_overflow = items == OVERFLOW
        if len(key) > KEY_BYTES or size > SEGMENT_BYTES - WORD:
            self.page.add_lost(self.row)
            return (VOID_CELLS, True) if is_overflow else None
        if self._position + size > self._end:
            is_needed = is_overflow or not self._segment or _is_ours(description)
            segment = self.page.add_segment(
                self.row, self._segment, is_needed=is_needed
            )
            if segment == BUSY:
                return VOID_CELLS, False
            if segment == FULL:
                self.page.add_lost(self.row)
                return (VOID_CELLS, True) if is_overflow else None
            self._segment = segment
            self._position, self._end = segment_range(segment)
        flags = EXEMPLARS if self.has_exemplars else 0
        series = self.page.add_series(
            self._position, self._end, key, description.kind, flags, values
        )
        self._position += size
        self._keep(description, series)
        return series.cells, True

    def _adopt(self) -> None:
        """Keep a series whose making was cut short after it was written."""
        while there := self.page.series_at(self._position, self._end):
            description, _ = read_key(there.key)
            self._position = (there.cells + there.words) * WORD
            self._keep(description, there)

    def _first_values(self, description: Description) -> list[float]:
        values = [0.0] * description.words(has_exemplars=self.has_exemplars)
        if description.kind in (Kind.HISTOGRAM, Kind.EXPONENTIAL):
            values[1:3] = math.inf, -math.inf
        return values

    def _keep(self, description: Description, series: Series) -> None:
        self._cells[series.key] = series.cells
        instrument = _instrument_of(description)
        self._sets[instrument] = self._sets.get(instrument, 0) + 1


def _is_ours(description: Description) -> bool:
    return description.scope[0] == OWN_SCOPE


def _instrument_of(description: Description) -> tuple[str, bytes]:
    return description.name, key_of(description, ())


def _wiped_by_fork(writer: Writer) -> memoryview:
    """Return a byte that is 0 in every child, however that was forked."""
    try:
        memory = mmap.mmap(
            -1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        memory.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):  # not Linux, or an older one

        def forget() -> None:
            writer.is_ready = memoryview(bytearray(1))

        os.register_at_fork(after_in_child=forget)
        return memoryview(bytearray(1))
    return memoryview(memory)
