# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How many spans a request has, before protobuf makes objects of them.

An empty span is two bytes on the wire and some hundred in memory: a request of the
largest size could have millions, and would take gigabytes and minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Exporters send 512 at once by default, Collectors 8,192.
REQUEST_SPANS = 50_000

# Field numbers of opentelemetry/proto/trace/v1/trace.proto.
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 1, 2, 2

# Wire types (protobuf, "Encoding"): number, 8 bytes, length and bytes, 4 bytes. The two
# marks of a group have no bytes of their own; what is between them is counted, too.
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def check_spans(data: bytes) -> None:
    """Refuse a request of too many spans, whether or not they are in one resource.

    Raises:
        ValueError: There are more, or these are no fields of protobuf.
    """
    count = 0
    for resource in _parts(data, (0, len(data)), _RESOURCE_SPANS):
        count += 1
        for scope in _parts(data, resource, _SCOPE_SPANS):
            count += 1
            for _ in _parts(data, scope, _SPANS):
                count += 1
                _check(count)
            _check(count)
        _check(count)


def _check(count: int) -> None:
    if count > REQUEST_SPANS:
        raise ValueError(f"too many spans: expected at most {REQUEST_SPANS} a request")


def _parts(
    data: bytes, place: tuple[int, int], wanted: int
) -> Iterator[tuple[int, int]]:
    """Yield where each part with a field number is, within a place."""
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
            if tag >> 3 == wanted:
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
    raise ValueError("not an OTLP trace request")
