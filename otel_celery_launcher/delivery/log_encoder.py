# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Encodes most log records as OTLP at a sixth of the SDK's cost; the SDK encodes the others.

The SDK makes four objects of each record before it encodes it. Here a record is encoded
as it came. The SDK encodes records with bodies or attributes other than text, numbers,
booleans and lists of these, and all of them if ``is_faithful`` finds a difference.

The field numbers are those of opentelemetry/proto/logs/v1/logs.proto, which never change.
Runs in the exporter process's sending threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.exporter.otlp.proto.common import _log_encoder
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.delivery.otlp_wire import (
    LOW,
    Headers,
    OtherKindError,
    attribute,
    blocks,
    sized,
    text,
    value,
)
from otel_celery_launcher.ipc.log_frames import FramedLog, LogItem

# It reads of a record what a ``FramedLog`` has, too.
encode_logs_slowly: Callable[[Sequence[Any]], ExportLogsServiceRequest] = (
    _log_encoder.encode_logs
)

_TIMES = struct.Struct("<BQBQ")  # time = 1, observed_time = 11
_IDS = struct.Struct(">2sQQ2sQ")  # trace_id = 9, span_id = 10
_FLAGS = struct.Struct("<BI")  # flags = 8
_ATTRIBUTE = b"\x32"  # attributes = 6


def encode_logs(batch: Sequence[Any]) -> ExportLogsServiceRequest:
    """Return what the SDK's ``encode_logs`` returns, in another order."""
    groups: dict[tuple[int, str], tuple[FramedLog, list[bytes]]] = {}
    others: list[Any] = []
    for record in batch:
        if type(record) is not FramedLog or (data := _encode_fast(record.item)) is None:
            others.append(record)
            continue
        key = (id(record.resource), record.item.logger)
        group = groups.get(key)
        if group is None:
            group = groups[key] = (record, [])
        group[1].append(data)
    request = encode_logs_slowly(others)
    request.MergeFromString(
        blocks(
            (_headers.of(key, record.resource, record), encoded)
            for key, (record, encoded) in groups.items()
        )
    )
    return request


def _encode_fast(item: LogItem) -> bytes | None:
    """Return a record without its tag and length; None where the SDK has to be asked."""
    _, time, severity, name, body, trace_id, span_id, flags, attributes, event = item
    try:
        parts = [
            _TIMES.pack(0x09, time, 0x59, time),
            _kept_severity(severity, name),
            _body(body),
        ]
        if attributes:
            parts += [attribute(_ATTRIBUTE, key, attributes[key]) for key in attributes]
        if event:
            parts.append(b"\x62" + text(event))  # event_name = 12
        if flags:
            parts.append(_FLAGS.pack(0x45, flags))
        if trace_id and span_id:
            high, low = trace_id >> 64, trace_id & LOW
            parts.append(_IDS.pack(b"\x4a\x10", high, low, b"\x52\x08", span_id))
        elif trace_id or span_id:
            return None
    except (OtherKindError, UnicodeEncodeError, struct.error):
        return None
    return b"".join(parts)


def _body(body: Any) -> bytes:
    """Return a body with its tag and length; of a short text as fast as can be."""
    if type(body) is str:
        data = body.encode()
        if len(data) < _SHORT:
            return _TEXT_HEADS[len(data)] + data
    return b"\x2a" + sized(value(body))  # body = 5


# What is before a text of so few bytes that each of its lengths takes one.
_SHORT = 126
_TEXT_HEADS = [bytes((0x2A, size + 2, 0x0A, size)) for size in range(_SHORT)]


@lru_cache(maxsize=128)
def _kept_severity(number: int, name: str) -> bytes:
    data = b"\x10" + bytes((number,)) if number else b""  # severity_number = 2
    return data + (b"\x1a" + text(name) if name else b"")  # severity_text = 3


def _encode_headers(record: FramedLog) -> tuple[bytes, bytes]:
    """Return a resource and a scope as the SDK encodes them, without any record."""
    (resource_logs,) = encode_logs_slowly([record]).resource_logs
    (scope_logs,) = resource_logs.scope_logs
    scope_logs.ClearField("log_records")
    scope_header = scope_logs.SerializeToString()
    resource_logs.ClearField("scope_logs")
    return resource_logs.SerializeToString(), scope_header


_headers = Headers(_encode_headers)


def is_faithful() -> bool:
    """Return whether this encoder makes of a record what the installed SDK's makes."""
    item = LogItem(
        "é", 2**62 + 1, 17, "ERROR", "é", 2**127 + 1, 3, 1,
        {"t": "é", "l": "x" * 300, "f": 0.5, "i": -1, "b": True, "s": ["x", "é"]},
    )  # fmt: skip
    outside = LogItem("", 1, 0, "", "", 0, 0, 0, {})
    resource = Resource({"a": "b"}, "https://example.org/r")
    return all(
        encode_logs([record]) == encode_logs_slowly([record])
        for record in (FramedLog(item, resource), FramedLog(outside, resource))
    )
