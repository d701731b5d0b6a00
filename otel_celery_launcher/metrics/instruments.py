# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The instruments of the metrics API, on top of the page.

Runs in the thread of the application that measures something. A measurement that is no
number, or whose attributes cannot be read, is ignored: with plain Celery these calls do
nothing, so none of them may raise here.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.trace import get_current_span

from otel_celery_launcher.compat.meter_providers import Gauge as ApiGauge
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.metrics.layout import (
    EXEMPLAR_WORDS,
    HISTOGRAM_WORDS,
    SUM_WORDS,
    Kind,
    clean_items,
    exponential_bucket,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from otel_celery_launcher.metrics.layout import Description, Items
    from otel_celery_launcher.metrics.writer import Writer

# How many sets of attributes an instrument finds without looking into its row; all sets
# that the row has room for, in two orders.
KNOWN_SETS = 4000

_HALF = 2**64 - 1


class Exemplars:
    """Which measurements may become exemplars: OTEL_METRICS_EXEMPLAR_FILTER.

    Args:
        name: ``trace_based``, ``always_on`` or ``always_off``.
    """

    def __init__(self, name: str) -> None:
        self.are_kept = name != "always_off"
        self._needs_trace = name == "trace_based"

    def takes(self, span: SpanContext) -> bool:
        """Return whether a measurement made inside a span is one."""
        return not self._needs_trace or span.trace_flags.sampled


class Cells:
    """Finds the cells of an instrument's series in this process.

    Args:
        writer: Of the process.
        description: The instrument.
    """

    def __init__(self, writer: Writer, description: Description) -> None:
        self._writer = writer
        self._description = description
        # Attributes whose values are all texts: True, 1 and 1.0 would be one key.
        self.known: dict[tuple[Any, ...], int] = {}
        self._typed: dict[tuple[Any, ...], int] = {}
        writer.on_new_process(self._forget)

    def _forget(self) -> None:
        self.known.clear()
        self._typed.clear()

    def find(self, attributes: Mapping[str, Any] | None) -> int:
        """Return where the cells of a set of attributes begin.

        Raises:
            Exception: One of ``MALFORMED_ERRORS``: they cannot be read.
        """
        raw = tuple(attributes.items()) if attributes else ()
        types = tuple([type(value) for _, value in raw])
        if not self._writer.is_ready[0]:
            self._writer.prepare()
        try:
            cells = self._typed.get((raw, types))
        except TypeError:  # a list: no part of a key
            items = clean_items(attributes or {})
            return self._writer.cells(self._description, items)[0]
        if cells is not None:
            return cells
        items = clean_items(attributes or {})
        cells, is_final = self._writer.cells(self._description, items)
        if is_final and len(self._typed) < KNOWN_SETS:
            self._typed[raw, types] = cells
            if all(each is str for each in types):
                self.known[raw] = cells
        return cells


class _Synchronous:
    """What the synchronous instruments have in common."""

    def __init__(
        self, writer: Writer, description: Description, exemplars: Exemplars
    ) -> None:
        self._writer = writer
        self._words = writer.page.words
        self._values = writer.page.values
        self._exemplars = exemplars
        self._has_exemplars = writer.has_exemplars
        self._first_exemplar = description.first_exemplar
        self._finder = Cells(writer, description)
        self._known = self._finder.known
        self.name, self.unit = description.name, description.unit
        self.description = description.description

    def _find(self, attributes: Mapping[str, Any] | None) -> int:
        if self._writer.is_ready[0]:
            try:
                cells = self._known.get(tuple(attributes.items()) if attributes else ())
            except TypeError:  # a list among the values
                cells = None
            if cells is not None:
                return cells
        return self._finder.find(attributes)

    def _offer(self, place: int, amount: float, context: Context | None) -> None:
        """Keep a measurement as the exemplar of an interval, if it may be one."""
        span = get_current_span(context).get_span_context()
        if self._exemplars.takes(span):
            write_exemplar(self._writer, place, amount, span)


def write_exemplar(
    writer: Writer, place: int, amount: float, span: SpanContext
) -> None:
    """Write an exemplar; its time goes last, since a reader looks at that.

    Args:
        writer: Of the process.
        place: Its first word.
        amount: What was measured.
        span: In which it was.
    """
    words = writer.page.words
    writer.page.values[place + 1] = amount
    words[place + 2] = span.span_id
    words[place + 3] = span.trace_id >> 64
    words[place + 4] = span.trace_id & _HALF
    words[place] = time.time_ns()
    writer.page.note_exemplar(writer.row)


class Counter(_Synchronous, metrics.Counter):
    """Counts what only grows."""

    def add(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Add an amount of 0 or more."""
        try:
            if not 0 <= amount < math.inf:
                return
            cells = self._find(attributes)
            with self._writer.lock:
                self._values[cells] += amount
        except MALFORMED_ERRORS:
            return
        if amount.__class__ is not int:
            self._words[cells + 1] = 1
        if self._has_exemplars and not self._words[cells + SUM_WORDS]:
            self._offer(cells + SUM_WORDS, amount, context)


class UpDownCounter(_Synchronous, metrics.UpDownCounter):
    """Counts what grows and shrinks; what a process has added ends with it."""

    def add(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Add an amount."""
        del context
        try:
            if not -math.inf < amount < math.inf:
                return
            cells = self._find(attributes)
            with self._writer.lock:
                self._values[cells] += amount
        except MALFORMED_ERRORS:
            return
        if amount.__class__ is not int:
            self._words[cells + 1] = 1


class Gauge(_Synchronous, ApiGauge):
    """Keeps the last value."""

    def set(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Set the value."""
        del context
        try:
            if not -math.inf < amount < math.inf:
                return
            cells = self._find(attributes)
            self._values[cells] = amount
        except MALFORMED_ERRORS:
            return
        self._words[cells + 2] = amount.__class__ is not int
        self._words[cells + 1] = time.time_ns()


class Histogram(_Synchronous, metrics.Histogram):
    """Counts values by size: in buckets with fixed boundaries, or that grow with them."""

    def __init__(
        self, writer: Writer, description: Description, exemplars: Exemplars
    ) -> None:
        super().__init__(writer, description, exemplars)
        is_exponential = description.kind is Kind.EXPONENTIAL
        self._boundaries = None if is_exponential else description.boundaries
        self._exemplar_places = description.exemplars

    def record(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Record a value of 0 or more."""
        try:
            if not 0 <= amount < math.inf:
                return
            cells = self._find(attributes)
            boundaries = self._boundaries
            bucket = (
                exponential_bucket(amount)
                if boundaries is None
                else bisect_left(boundaries, amount)
            )
            add_to_histogram(self._writer, cells, bucket, amount)
        except MALFORMED_ERRORS:
            return
        if amount.__class__ is not int:
            self._words[cells + 3] = 1
        if self._has_exemplars:
            number = bucket % self._exemplar_places
            place = cells + self._first_exemplar + number * EXEMPLAR_WORDS
            if not self._words[place]:
                self._offer(place, amount, context)


def add_to_histogram(writer: Writer, cells: int, bucket: int, amount: float) -> None:
    """Add a value to the cells of a histogram.

    Args:
        writer: Of the process.
        cells: Where they begin.
        bucket: Which one, from 0.
        amount: The value.
    """
    values = writer.page.values
    with writer.lock:
        values[cells] += amount  # raises for a number that is no float: nothing is done
        values[cells + HISTOGRAM_WORDS + bucket] += 1
        if amount < values[cells + 1]:
            values[cells + 1] = amount
        if amount > values[cells + 2]:
            values[cells + 2] = amount


def record_seconds(
    writer: Writer,
    description: Description,
    items: Items,
    seconds: float,
    *,
    has_exponents: bool,
) -> None:
    """Add a duration to a built-in histogram whose cells nobody keeps.

    Args:
        writer: Of the process.
        description: Of a histogram with fixed boundaries.
        items: Its attributes, sorted.
        seconds: 0 or more.
        has_exponents: Whether histograms have buckets that grow with the values.
    """
    if has_exponents:
        description = description.as_exponential()
    cells, _ = writer.cells(description, items)
    add_to_histogram(writer, cells, description.bucket(seconds), seconds)
    writer.page.words[cells + 3] = 1  # seconds are no whole numbers


class _Observable:
    """An instrument whose values are asked for: ``observed.py`` does."""

    def __init__(self, description: Description) -> None:
        self.name, self.unit = description.name, description.unit
        self.description = description.description


class ObservableCounter(_Observable, metrics.ObservableCounter):
    """Asks for a count that only grows."""


class ObservableUpDownCounter(_Observable, metrics.ObservableUpDownCounter):
    """Asks for a count that grows and shrinks."""


class ObservableGauge(_Observable, metrics.ObservableGauge):
    """Asks for a value."""


SYNCHRONOUS: dict[Kind, Any] = {
    Kind.COUNTER: Counter,
    Kind.UP_DOWN: UpDownCounter,
    Kind.HISTOGRAM: Histogram,
    Kind.EXPONENTIAL: Histogram,
    Kind.GAUGE: Gauge,
}

OBSERVABLE: dict[Kind, Any] = {
    Kind.OBSERVED_COUNTER: ObservableCounter,
    Kind.OBSERVED_UP_DOWN: ObservableUpDownCounter,
    Kind.OBSERVED_GAUGE: ObservableGauge,
}
