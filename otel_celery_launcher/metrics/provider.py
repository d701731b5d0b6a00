# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics API's provider and meter: they make the instruments of an application.

Made once in each interpreter, before the application is imported; forked children
inherit it. A request that the API does not allow gets the API's own instrument, which
does nothing: with plain Celery it would do nothing, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.metrics.instruments import (
    OBSERVABLE,
    SYNCHRONOUS,
    Exemplars,
)
from otel_celery_launcher.metrics.layout import (
    Description,
    Kind,
    boundaries_of,
    clean_items,
    clean_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_celery_launcher.metrics.observed import Observers
    from otel_celery_launcher.metrics.writer import Writer

# https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax
_NAME = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}\Z")
_UNIT = re.compile(r"[ -~]{0,63}\Z")


class PageMeterProvider(metrics.MeterProvider):
    """Makes meters whose instruments write into the page.

    Args:
        writer: Of each process.
        observers: Call the callbacks of observable instruments.
        exemplars: Which measurements may become exemplars.
        has_exponents: Whether histograms have buckets that grow with the values.

    Attributes:
        flush: Exports what is there; gets seconds, returns whether it was in time.
    """

    def __init__(
        self,
        writer: Writer,
        observers: Observers,
        exemplars: Exemplars,
        *,
        has_exponents: bool = False,
    ) -> None:
        self.writer = writer
        self.observers = observers
        self.exemplars = exemplars
        self.has_exponents = has_exponents
        self.flush: Callable[[float], bool] = lambda _: True
        self._meters: dict[tuple[Any, ...], PageMeter] = {}

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> metrics.Meter:
        """Return the meter of a scope."""
        try:
            items = clean_items(attributes or {})
        except MALFORMED_ERRORS:
            items = ()
        texts = [clean_text(str(each or "")) for each in (name, version, schema_url)]
        scope = (texts[0], texts[1], texts[2], items)
        meter = self._meters.get(scope)
        if meter is None:
            meter = self._meters.setdefault(scope, PageMeter(self, scope))
        return meter

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Export what is there; return whether that ended in time."""
        return self.flush(timeout_millis / 1000)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Export what is there: an application's shutdown ends nobody's metrics."""
        self.force_flush(timeout_millis)


class PageMeter(metrics.Meter):
    """Makes the instruments of one scope.

    Args:
        provider: Of it.
        scope: Name, version, schema URL and attributes.
    """

    def __init__(
        self, provider: PageMeterProvider, scope: tuple[str, str, str, tuple[Any, ...]]
    ) -> None:
        super().__init__(*scope[:3])
        self._provider = provider
        self._scope = scope
        self._made: dict[tuple[Any, ...], Any] = {}

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        """Return a counter."""
        return self._synchronous(
            Kind.COUNTER, name, unit, description
        ) or metrics.NoOpCounter(name, unit, description)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> Any:
        """Return a counter of what grows and shrinks."""
        return self._synchronous(
            Kind.UP_DOWN, name, unit, description
        ) or metrics.NoOpUpDownCounter(name, unit, description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Any:
        """Return a gauge."""
        return self._synchronous(
            Kind.GAUGE, name, unit, description
        ) or metrics.NoOpMeter(self._scope[0]).create_gauge(name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Any:
        """Return a histogram; the advice is for one with fixed boundaries."""
        if self._provider.has_exponents:
            kind = Kind.EXPONENTIAL
            boundaries: tuple[float, ...] = ()
        else:
            kind = Kind.HISTOGRAM
            boundaries = boundaries_of(explicit_bucket_boundaries_advisory)
        return self._synchronous(
            kind, name, unit, description, boundaries
        ) or metrics.NoOpHistogram(name, unit, description)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[Any] | None = None,
        unit: str = "",
        description: str = "",
    ) -> Any:
        """Return an instrument that asks for a count that only grows."""
        return self._observable(
            Kind.OBSERVED_COUNTER, name, callbacks, unit, description
        ) or metrics.NoOpObservableCounter(name, callbacks, unit, description)

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[Any] | None = None,
        unit: str = "",
        description: str = "",
    ) -> Any:
        """Return an instrument that asks for a value."""
        return self._observable(
            Kind.OBSERVED_GAUGE, name, callbacks, unit, description
        ) or metrics.NoOpObservableGauge(name, callbacks, unit, description)

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[Any] | None = None,
        unit: str = "",
        description: str = "",
    ) -> Any:
        """Return an instrument that asks for a count that grows and shrinks."""
        return self._observable(
            Kind.OBSERVED_UP_DOWN, name, callbacks, unit, description
        ) or metrics.NoOpObservableUpDownCounter(name, callbacks, unit, description)

    def _describe(
        self,
        kind: Kind,
        name: object,
        unit: object,
        description: object,
        boundaries: tuple[float, ...] = (),
    ) -> Description | None:
        """Return an instrument's description; None if the API does not allow it."""
        unit = "" if unit is None else unit
        if not isinstance(name, str) or not _NAME.match(name):
            return None
        if not isinstance(unit, str) or not _UNIT.match(unit):
            return None
        text = clean_text(description) if isinstance(description, str) else ""
        # An enumeration is a str, too, and no part of a key.
        name, unit = str.__str__(name).lower(), str.__str__(unit)
        return Description(kind, name, unit, text, self._scope, boundaries)

    def _synchronous(
        self, kind: Kind, name: str, unit: str, description: str, boundaries: Any = ()
    ) -> Any:
        described = self._describe(kind, name, unit, description, boundaries)
        if described is None:
            return None
        instrument = self._made.get(described)
        if instrument is None:
            provider = self._provider
            made = SYNCHRONOUS[kind](provider.writer, described, provider.exemplars)
            instrument = self._made.setdefault(described, made)
        return instrument

    def _observable(
        self,
        kind: Kind,
        name: str,
        callbacks: Sequence[Any] | None,
        unit: str,
        description: str,
    ) -> Any:
        described = self._describe(kind, name, unit, description)
        if described is None:
            return None
        for callback in callbacks or ():
            self._provider.observers.add(described, callback)
        return OBSERVABLE[kind](described)
