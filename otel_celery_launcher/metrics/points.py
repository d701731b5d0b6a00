# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Totals as the SDK's data classes, which every exporter takes.

Imported only where metrics are exported: the classes are the SDK's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_celery_launcher.compat.metric_points import Exemplar
from otel_celery_launcher.metrics.layout import (
    EXPONENT_LOWEST,
    EXPONENT_SCALE,
    Kind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.metrics.layout import Description
    from otel_celery_launcher.metrics.reader import Total, Totals

# Receivers expect at most this number of buckets
# (https://opentelemetry.io/docs/specs/otel/metrics/sdk/#base2-exponential-bucket-histogram-aggregation).
MOST_BUCKETS = 160

# A request of this number of points stays below the 4 MiB that receivers take.
REQUEST_POINTS = 2500

# An instrument and some of its series.
Chunk = tuple["Description", list["Total"]]

_MONOTONIC = frozenset({Kind.COUNTER, Kind.OBSERVED_COUNTER, Kind.ABSOLUTE})
_GAUGES = frozenset({Kind.GAUGE, Kind.OBSERVED_GAUGE, Kind.SINCE})

# Integers of OTLP have 64 bits.
_LARGEST = 2.0**63


class PointMaker:
    """Makes the metrics of one export.

    Args:
        resource: Whose metrics these are.
        now: Nanoseconds since the epoch.
        started: Since when totals count, likewise.
        deltas: Instruments whose totals are those of one interval.
        delta_started: Since when these count.
    """

    def __init__(
        self,
        resource: Resource,
        now: int,
        started: int,
        deltas: frozenset[Description] = frozenset(),
        delta_started: int = 0,
    ) -> None:
        self._resource = resource
        self._now = now
        self._started = started
        self._deltas = deltas
        self._delta_started = delta_started

    def requests(self, totals: Totals) -> Iterator[list[Chunk]]:
        """Yield what is exported, in as many requests as needed."""
        chunks: list[Chunk] = []
        room = REQUEST_POINTS
        for description, series in totals.items():
            left = list(series.values())
            while left:
                chunks.append((description, left[:room]))
                left, room = left[room:], room - len(left[:room])
                if not room:
                    yield chunks
                    chunks, room = [], REQUEST_POINTS
        if chunks:
            yield chunks

    def data(self, chunks: Sequence[Chunk]) -> MetricsData:
        """Return a request."""
        by_scope: dict[Any, list[Metric]] = {}
        for description, totals in chunks:
            points = [self._point(description, total) for total in totals]
            metric = self._metric(description, points)
            by_scope.setdefault(description.scope, []).append(metric)
        scopes = [
            ScopeMetrics(
                scope=InstrumentationScope(
                    name, version or None, schema_url or None, dict(attributes)
                ),
                metrics=of_scope,
                schema_url=schema_url,
            )
            for (name, version, schema_url, attributes), of_scope in by_scope.items()
        ]
        whole = ResourceMetrics(
            resource=self._resource,
            scope_metrics=scopes,
            schema_url=self._resource.schema_url,
        )
        return MetricsData(resource_metrics=[whole])

    def _metric(self, description: Description, points: list[Any]) -> Metric:
        temporality = (
            AggregationTemporality.DELTA
            if description in self._deltas
            else AggregationTemporality.CUMULATIVE
        )
        kind = description.kind
        data: Any
        if kind in _GAUGES:
            data = Gauge(points)
        elif kind is Kind.HISTOGRAM:
            data = Histogram(points, temporality)
        elif kind is Kind.EXPONENTIAL:
            data = ExponentialHistogram(points, temporality)
        else:
            data = Sum(points, temporality, kind in _MONOTONIC)
        return Metric(description.name, description.description, description.unit, data)

    def _point(self, description: Description, total: Total) -> Any:
        kind = description.kind
        is_delta = description in self._deltas
        started = self._delta_started if is_delta else self._started
        common: dict[str, Any] = {
            "attributes": dict(total.items),
            "start_time_unix_nano": 0 if kind in _GAUGES else started,
            "time_unix_nano": self._now,
            "exemplars": [
                Exemplar(
                    {},
                    _number(each.value, is_float=total.is_float),
                    each.time,
                    each.span_id or None,
                    each.trace_id or None,
                )
                for each in total.exemplars
            ],
        }
        if kind is Kind.HISTOGRAM:
            return _histogram_point(description, total, common, is_delta=is_delta)
        if kind is Kind.EXPONENTIAL:
            return _exponential_point(total, common, is_delta=is_delta)
        value = total.value
        if kind is Kind.SINCE:
            value = max(0.0, (self._now - total.value) / 1e9)
        number = _number(value, is_float=total.is_float or kind is Kind.SINCE)
        return NumberDataPoint(value=number, **common)


def halves(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Return a request as two smaller ones; empty if it has one point."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return [list(chunks[:middle]), list(chunks[middle:])]
    ((description, totals),) = chunks
    middle = len(totals) // 2
    if not middle:
        return []
    return [[(description, totals[:middle])], [(description, totals[middle:])]]


def count_of(chunks: Sequence[Chunk]) -> int:
    """Return how many points a request has."""
    return sum(len(totals) for _, totals in chunks)


def _number(value: float, *, is_float: bool) -> float:
    """Return a number as it was measured; no encoder takes a larger integer."""
    if is_float or not value.is_integer() or not -_LARGEST <= value < _LARGEST:
        return value
    return int(value)


def _histogram_point(
    description: Description, total: Total, common: dict[str, Any], *, is_delta: bool
) -> HistogramDataPoint:
    counts = [int(each) for each in total.buckets]
    return HistogramDataPoint(
        count=sum(counts),
        sum=_number(total.value, is_float=total.is_float),
        bucket_counts=counts,
        explicit_bounds=description.boundaries,
        min=_extreme(total.low, total, is_delta=is_delta),
        max=_extreme(total.high, total, is_delta=is_delta),
        **common,
    )


def _extreme(value: float, total: Total, *, is_delta: bool) -> Any:
    """Return the least or greatest value; None in a delta, which does not know it."""
    if is_delta or not math.isfinite(value):
        return None
    return _number(value, is_float=total.is_float)


def _exponential_point(
    total: Total, common: dict[str, Any], *, is_delta: bool
) -> ExponentialHistogramDataPoint:
    zeros, *buckets = [int(each) for each in total.buckets]
    offset, scale = EXPONENT_LOWEST, EXPONENT_SCALE
    used = [number for number, count in enumerate(buckets) if count]
    if used:
        offset += used[0]
        buckets = buckets[used[0] : used[-1] + 1]
    else:
        buckets = []
    while len(buckets) > MOST_BUCKETS:
        # Bucket i of a scale is buckets 2i and 2i + 1 of the next finer one.
        padded = [*([0] * (offset % 2)), *buckets, 0]
        pairs = range(0, len(padded) - 1, 2)
        buckets = [padded[number] + padded[number + 1] for number in pairs]
        offset, scale = offset // 2, scale - 1
    return ExponentialHistogramDataPoint(
        count=zeros + sum(buckets),
        sum=_number(total.value, is_float=total.is_float),
        scale=scale,
        zero_count=zeros,
        positive=Buckets(offset if buckets else 0, buckets),
        negative=Buckets(0, []),
        flags=0,
        min=_extreme(total.low, total, is_delta=is_delta),
        max=_extreme(total.high, total, is_delta=is_delta),
        **common,
    )
