# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How many spans, points or log records a request has, before protobuf makes objects of them.

An empty span is two bytes on the wire and some hundred in memory: a request of the
largest size could have millions, and would take gigabytes and minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Exporters send 512 at once by default, Collectors 8,192.
REQUEST_SPANS = 50_000

# Field numbers on the way to a span, from the outside (opentelemetry/proto/trace/v1/
# trace.proto): resource_spans, scope_spans, spans.
_TO_SPANS = ((1,), (2,), (2,))

# To a point (metrics.proto): resource_metrics, scope_metrics, metrics; of a metric its
# data, and of that its points.
_TO_POINTS = ((1,), (2,), (2,), (5, 7, 9, 10, 11), (1,))

# To a log record (logs.proto): resource_logs, scope_logs, log_records.
_TO_LOG_RECORDS = _TO_SPANS

# Wire types (protobuf, "Encoding"): number, 8 bytes, length and bytes, 4 bytes. The two
# marks of a group have no bytes of their own; what is between them is counted, too.
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def check_spans(data: bytes) -> None:
    """Refuse a request of too many spans, whether or not they are in one resource.

    Raises:
        ValueError: There are more, or these are no fields of protobuf.
    """
    _check(data, _TO_SPANS, "spans")


def check_points(data: bytes) -> None:
    """Refuse a request of too many points of metrics, as ``check_spans`` does of spans.

    Raises:
        ValueError: There are more, or these are no fields of protobuf.
    """
    _check(data, _TO_POINTS, "points")


def check_log_records(data: bytes) -> None:
    """Refuse a request of too many log records, as ``check_spans`` does of spans.

    Raises:
        ValueError: There are more, or these are no fields of protobuf.
    """
    _check(data, _TO_LOG_RECORDS, "log records")


def _check(data: bytes, path: tuple[tuple[int, ...], ...], items: str) -> None:
    """Count the parts on all levels of a path of field numbers."""
    places = [(0, len(data))]
    count = 0
    for wanted in path:
        inner: list[tuple[int, int]] = []
        for place in places:
            for part in _parts(data, place, wanted):
                inner.append(part)
                count += 1
                if count > REQUEST_SPANS:
                    raise ValueError(
                        f"too many {items}: expected at most {REQUEST_SPANS} a request"
                    )
        places = inner


def _parts(
    data: bytes, place: tuple[int, int], wanted: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Yield where each part with one of these field numbers is, within a place."""
    at, end = place
    while at < end:
        tag, at = _read_number(data, at)
        kind = tag & 7
        if kind == _NUMBER:
            _, at = _read_number(data, at)
        elif kind == _EIGHT:
            at += 8
        elif kind == _FOUR:
            at += 4
        elif kind == _BYTES:
            size, at = _read_number(data, at)
            if tag >> 3 in wanted:
                yield at, min(at + size, end)
            at += size


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
    raise ValueError("not an OTLP request")
