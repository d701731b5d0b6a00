# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""All rows of the page, added up: one value for each series.

Runs in the process that exports. It changes nothing in the page but the exemplars, which
it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from otel_celery_launcher.ipc.marshalled import READ_ERRORS
from otel_celery_launcher.metrics.layout import (
    EXEMPLAR_WORDS,
    EXEMPLARS,
    HISTOGRAM_WORDS,
    IS_FLOAT,
    OF_THE_LIVING,
    OVERFLOW,
    SETS,
    WORD,
    Kind,
    key_of,
)
from otel_celery_launcher.metrics.page import (
    MEASUREMENTS,
    DamagedPageError,
    read_series,
    segment_range,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.metrics.layout import Description, Items
    from otel_celery_launcher.metrics.page import MetricPage, Series

_HISTOGRAMS = frozenset({Kind.HISTOGRAM, Kind.EXPONENTIAL})

# Kinds whose value has a time.
_TIMED = frozenset({Kind.GAUGE, Kind.SINCE, Kind.OBSERVED_UP_DOWN, Kind.OBSERVED_GAUGE})

# No count is larger: something else has written there.
_LARGEST = 2.0**63

# Values that were observed so long ago, in intervals, are not exported.
STALE_INTERVALS = 3


class Taken(NamedTuple):
    """An exemplar."""

    time: int  # nanoseconds since the epoch
    value: float
    span_id: int
    trace_id: int


@dataclass(slots=True)
class Total:
    """One series over all processes.

    Attributes:
        items: Its attributes.
        created: When the first process made it: nanoseconds since the epoch.
        value: Of a sum or a gauge; the sum of a histogram.
        time: When a gauge was set: nanoseconds since the epoch.
        is_float: Whether any measurement was no whole number.
        low: The least value of a histogram.
        high: The greatest one.
        buckets: Of a histogram; the first of an exponential one is for 0.
        exemplars: Those of the interval.
    """

    items: Items
    created: int
    value: float = 0.0
    time: int = 0
    is_float: bool = False
    low: float = math.inf
    high: float = -math.inf
    buckets: list[float] = field(default_factory=list)
    exemplars: list[Taken] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether a difference says that nothing has come."""
        return not self.value and not any(self.buckets)

    @property
    def is_sane(self) -> bool:
        """Whether every exporter can encode it; else something has written into its cells."""
        if not math.isfinite(self.value):
            return False
        return all(0 <= each < _LARGEST for each in self.buckets)

    def add(self, other: Total) -> None:
        """Add another series of the same instrument, for an overflow point."""
        self.created = min(self.created, other.created)
        self.is_float = self.is_float or other.is_float
        self.exemplars += other.exemplars
        self.value += other.value
        self.time = max(self.time, other.time)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        pairs = zip(self.buckets, other.buckets, strict=True)
        self.buckets = [mine + others for mine, others in pairs]

    def minus(self, other: Total) -> Total:
        """Return what has come since an earlier total; its extremes are not known."""
        return Total(
            items=self.items,
            created=self.created,
            value=self.value - other.value,
            time=self.time,
            is_float=self.is_float,
            low=self.low,
            high=self.high,
            buckets=[
                mine - before
                for mine, before in zip(
                    self.buckets,
                    other.buckets or [0.0] * len(self.buckets),
                    strict=True,
                )
            ],
            exemplars=self.exemplars,
        )


# The series of each instrument, by their keys: as attributes, True and 1 would be the same.
Totals = dict["Description", dict[bytes, Total]]


class _Entry(NamedTuple):
    """A series of one row, whose key has been read."""

    row: int
    cells: int
    created: int
    has_exemplars: bool
    key: bytes
    description: Description
    items: Items


class _Row:
    """The series of a row that are known: further ones may come, none goes."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self._segment = self._position = 0

    def look(self, page: MetricPage) -> Iterator[Series]:
        """Yield the series that are new since the last look.

        Raises:
            DamagedPageError: Something else has written into the row.
        """
        segments = page.segments(self.number)
        if self._segment not in segments:
            self._segment = self._position = 0
            self.entries.clear()
        first = segments.index(self._segment) if self._segment else 0
        for segment in segments[first:]:
            start, end = segment_range(segment)
            if segment != self._segment:
                self._segment, self._position = segment, start
            while series := page.series_at(self._position, end):
                yield series
                self._position = (series.cells + series.words) * WORD

    number = 0


class PageReader:
    """Reads a page.

    Attributes:
        damaged: Rows and series that something else has written into, the last time.
        overflowed: Series that are part of an overflow point, the last time.
        count: Series that were read, the last time.

    Args:
        page: The page.
        interval: Seconds between two reads.
    """

    def __init__(self, page: MetricPage, interval: float) -> None:
        self._page = page
        self._stale = int(STALE_INTERVALS * interval * 1e9)
        self._rows: dict[int, _Row] = {}
        self.damaged = self.overflowed = self.count = 0

    def read(
        self, now: int, purpose: int = MEASUREMENTS, *, takes_exemplars: bool = True
    ) -> Totals:
        """Return the total of each series.

        Args:
            now: Nanoseconds since the epoch.
            purpose: Of the rows to read.
            takes_exemplars: Whether exemplars are taken out of the page.
        """
        self.damaged = 0
        rows = self._page.rows(purpose)
        self._rows = {number: self._row(number) for number in rows}
        with_exemplars = {
            number
            for number in rows
            if takes_exemplars and self._page.take_exemplar_note(number)
        }
        totals: Totals = {}
        for key, entries in self._groups().items():
            total = self._total(entries, now)
            if total is None:
                continue
            if not total.is_sane:
                self.damaged += 1
                continue
            if with_exemplars and entries[0].has_exemplars:
                self._take_exemplars(
                    [entry for entry in entries if entry.row in with_exemplars], total
                )
            totals.setdefault(entries[0].description, {})[key] = total
        self.count = sum(map(len, totals.values()))
        return totals

    def _groups(self) -> dict[bytes, list[_Entry]]:
        """Return the entries of each series, without those that ended with their process."""
        groups: dict[bytes, list[_Entry]] = {}
        for number, row in self._rows.items():
            is_dead = bool(row.entries) and not self._page.is_living(number)
            for entry in row.entries:
                if is_dead and entry.description.kind in OF_THE_LIVING:
                    continue
                group = groups.get(entry.key)
                if group is None:
                    groups[entry.key] = [entry]
                else:
                    group.append(entry)
        return groups

    def _row(self, number: int) -> _Row:
        """Return a row, with the series that have come since the last read."""
        row = self._rows.get(number) or _Row()
        row.number = number
        try:
            for series in row.look(self._page):
                row.entries.append(_entry(number, series))
        except (DamagedPageError, *READ_ERRORS):
            self.damaged += 1
        return row

    def read_bounded(self, now: int) -> Totals:
        """Return the totals, with at most ``SETS`` sets of attributes an instrument.

        Those that were made first keep their own point, so that none of them ever
        disappears; the rest is one overflow point.
        """
        totals = self.read(now)
        self.overflowed = 0
        for description, series in totals.items():
            key = key_of(description, OVERFLOW)
            if len(series) - (key in series) > SETS:
                totals[description] = self._bounded(key, series)
        return totals

    def _bounded(self, key: bytes, series: dict[bytes, Total]) -> dict[bytes, Total]:
        rest = series.pop(key, None)
        by_age = sorted(series.items(), key=lambda item: (item[1].created, item[0]))
        self.overflowed += len(by_age) - SETS
        for _, total in by_age[SETS:]:
            if rest is None:
                rest = total
                rest.items = OVERFLOW
            else:
                rest.add(total)
        bounded = dict(by_age[:SETS])
        if rest is not None:
            bounded[key] = rest
        return bounded

    def _total(self, entries: list[_Entry], now: int) -> Total | None:
        """Return one series over all rows; None if it has no value now."""
        first, values, words = entries[0], self._page.values, self._page.words
        kind = first.description.kind
        total = Total(first.items, min(entry.created for entry in entries))
        places = [entry.cells for entry in entries]
        if kind in _HISTOGRAMS:
            size = first.description.first_exemplar
            columns = [*zip(*[values[each : each + size].tolist() for each in places])]  # noqa: B905 - of one size
            total.value, total.is_float = sum(columns[0]), any(columns[IS_FLOAT[kind]])
            total.low, total.high = min(columns[1]), max(columns[2])
            total.buckets = [*map(sum, columns[HISTOGRAM_WORDS:])]
            return total if any(total.buckets) else None  # prepared for a first value
        flag = IS_FLOAT[kind]
        total.is_float = any(words[each + flag] for each in places)
        if kind in _TIMED:
            set_ = [(words[each + 1], values[each]) for each in places]
            return _timed(kind, total, set_, now - self._stale)
        if kind is Kind.ABSOLUTE:
            total.value = max([values[each] for each in places])
        elif kind is Kind.OBSERVED_COUNTER:
            total.value = sum(
                [values[each + 3] or values[each] + values[each + 1] for each in places]
            )
        else:
            total.value = sum([values[each] for each in places])
        return total

    def _take_exemplars(self, entries: list[_Entry], total: Total) -> None:
        words, values = self._page.words, self._page.values
        for entry in entries:
            description = entry.description
            first = entry.cells + description.first_exemplar
            end = first + description.exemplars * EXEMPLAR_WORDS
            times = words[first:end:EXEMPLAR_WORDS].tolist()
            if not any(times):
                continue
            for number, time in enumerate(times):
                if time:
                    place = first + number * EXEMPLAR_WORDS
                    trace_id = words[place + 3] << 64 | words[place + 4]
                    total.exemplars.append(
                        Taken(time, values[place + 1], words[place + 2], trace_id)
                    )
                    words[place] = 0


def _entry(row: int, series: Series) -> _Entry:
    """Return a series with its key read.

    Raises:
        Exception: ``DamagedPageError``, or one of ``marshalled.READ_ERRORS``.
    """
    description, items = read_series(series)
    return _Entry(
        row,
        series.cells,
        series.created,
        bool(series.flags & EXEMPLARS),
        series.key,
        description,
        items,
    )


def _timed(
    kind: Kind, total: Total, values: list[tuple[int, float]], oldest: int
) -> Total | None:
    """Fill in a value that has a time; None if nothing was set.

    Args:
        kind: A gauge's is the last one; others are added, if they are not stale.
        total: Of the series.
        values: Time and value of each process; a time of 0 is none.
        oldest: What is older is stale: nanoseconds since the epoch.
    """
    if kind in (Kind.OBSERVED_UP_DOWN, Kind.OBSERVED_GAUGE):
        values = [each for each in values if each[0] > oldest]
    values = [each for each in values if each[0]]
    if not values:
        return None
    total.time, total.value = max(values)
    if kind is Kind.OBSERVED_UP_DOWN:
        total.value = sum([value for _, value in values])
    return total
