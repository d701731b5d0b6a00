# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Points of metrics as they come over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from otel_celery_launcher.receiver.span_limit import check_points
from otel_celery_launcher.receiver.spans import parse_request, read_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

# How OTLP numbers the temporalities.
TEMPORALITIES = ("unspecified", "delta", "cumulative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPoint:
    """A point of a metric; times in seconds since the epoch.

    Attributes:
        metric: Name of the metric.
        unit: Its unit.
        kind: ``gauge``, ``sum``, ``histogram`` or ``exponential_histogram``.
        temporality: ``cumulative`` or ``delta``; empty for a gauge.
        value: Of a gauge or a sum; of a histogram the sum.
        count: Of a histogram.
        bounds: Boundaries of its buckets.
        buckets: Counts of its buckets.
        exemplars: Trace ids.
    """

    metric: str
    unit: str
    kind: str
    temporality: str
    is_monotonic: bool
    attributes: dict[str, Any]
    value: float
    count: int
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    exemplars: tuple[str, ...]
    start: float
    time: float
    resource: dict[str, Any]
    scope: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells its series from others."""
        attributes = sorted(
            (key, repr(value)) for key, value in self.attributes.items()
        )
        return self.metric, self.scope, tuple(attributes)

    @property
    def service(self) -> str:
        """The service it belongs to."""
        return str(self.resource.get("service.name", ""))


def read_metrics(data: bytes) -> list[ReceivedPoint]:
    """Return the points of an OTLP request.

    Raises:
        ValueError: It is not a request, or has too many points.
    """
    check_points(data)
    request = parse_request(ExportMetricsServiceRequest, data, "metrics")
    found: list[ReceivedPoint] = []
    for resource_metrics in request.resource_metrics:
        resource = read_attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                found += _points(metric, resource, scope_metrics.scope.name)
    return found


def _points(
    metric: Metric, resource: dict[str, Any], scope: str
) -> Iterator[ReceivedPoint]:
    kind = metric.WhichOneof("data")
    if kind not in ("gauge", "sum", "histogram", "exponential_histogram"):
        return
    data = getattr(metric, kind)
    number = getattr(data, "aggregation_temporality", 0)
    is_known = 0 < number < len(TEMPORALITIES)
    for point in data.data_points:
        is_number = kind in ("gauge", "sum")
        which = point.WhichOneof("value") if is_number else None
        value = getattr(point, which) if which else getattr(point, "sum", 0.0)
        buckets = () if is_number else getattr(point, "bucket_counts", ())
        if kind == "exponential_histogram":
            buckets = (point.zero_count, *point.positive.bucket_counts)
        yield ReceivedPoint(
            metric=metric.name,
            unit=metric.unit,
            kind=kind,
            temporality=TEMPORALITIES[number] if is_known else "",
            is_monotonic=bool(getattr(data, "is_monotonic", False)),
            attributes=read_attributes(point.attributes),
            value=value,
            count=0 if is_number else point.count,
            bounds=tuple(getattr(point, "explicit_bounds", ())),
            buckets=tuple(buckets),
            exemplars=tuple(each.trace_id.hex() for each in point.exemplars),
            start=point.start_time_unix_nano / 1e9,
            time=point.time_unix_nano / 1e9,
            resource=resource,
            scope=scope,
        )
