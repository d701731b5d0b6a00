# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""OTLP of most spans, at a fifth of the cost; the SDK's encoder does all others.

A worker's spans are alike: the same names, scopes and resources, and most attributes come
again. What is the same is encoded once and kept. Spans with events, links, a status, a
trace state or attributes of other kinds than text, numbers and booleans go through the
SDK's encoder, and so do all where ``is_faithful`` finds a difference.

The wire format is that of https://protobuf.dev/programming-guides/encoding/ and the field
numbers those of opentelemetry/proto/trace/v1/trace.proto, which never change. Runs in the
exporter process's sending threads.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import (
    encode_spans as encode_spans_slowly,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from otel_celery_launcher.exporter.cleaning import cleaned
from otel_celery_launcher.exporter.rebuild import EndedSpan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

# Attributes that are kept, and how long a text may be: those of most spans. A text that
# is as long as a UUID is one, as a rule, and comes but once.
KEPT = 4096
_KEPT_LENGTH = 36
_LONG = 128  # characters of a name, or of a key, that is not kept
_KEPT_NUMBERS = frozenset({bool, int})

# Resources and scopes by which spans are grouped.
GROUPS_KEPT = 512

_IDS = struct.Struct(">2sQQ2sQ")  # trace_id = 1, span_id = 2
_PARENT = struct.Struct(">2sQ")  # parent_span_id = 4
_KIND_AND_TIMES = struct.Struct("<BBBQBQ")  # kind = 6, start = 7, end = 8
_FLAGS = struct.Struct("<2sI")  # flags = 16
_DOUBLE = struct.Struct("<Bd")
_NO_STATUS = b"\x7a\x00"  # status = 15, which is there and empty

_IS_REMOTE_IS_KNOWN, _IS_REMOTE = 0x100, 0x200
_LOW = 2**64 - 1


def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return what the SDK's ``encode_spans`` returns, in another order.

    Each pair of a resource and a scope has a block of its own.

    Values that it would refuse are cleaned: ``cleaning.py``.
    """
    groups: dict[tuple[int, int], tuple[ReadableSpan, list[bytes]]] = {}
    others: list[ReadableSpan] = []
    for span in spans:
        try:
            data = _span(span)
        except UnicodeEncodeError:  # a lone surrogate
            data = None
        if data is None:
            others.append(span)
            continue
        key = (id(span.resource), id(span.instrumentation_scope))
        group = groups.get(key)
        if group is None:
            group = groups[key] = (span, [])
        group[1].append(b"\x12" + _varint(len(data)) + data)  # spans = 2
    request = encode_spans_slowly(cleaned(others))
    blocks = []
    for span, found in groups.values():
        resource, scope = _headers(span)
        scope_spans = scope + b"".join(found)
        # scope_spans = 2 of the resource's, resource_spans = 1 of the request
        block = resource + b"\x12" + _varint(len(scope_spans)) + scope_spans
        blocks.append(b"\x0a" + _varint(len(block)) + block)
    request.MergeFromString(b"".join(blocks))
    return request


def _span(span: ReadableSpan) -> bytes | None:
    """Return a span without its tag and length; None where it is not like most."""
    context, parent, status = span.context, span.parent, span.status
    start, end, attributes = span.start_time, span.end_time, span.attributes
    if (
        context is None
        or context.trace_state
        or span.events
        or span.links
        or status.status_code is not StatusCode.UNSET
        or status.description
        or not (span.name and start and end)
        or span.dropped_attributes
        or span.dropped_events
        or span.dropped_links
    ):
        return None
    trace_id, flags = context.trace_id, _IS_REMOTE_IS_KNOWN
    parts = [
        _IDS.pack(
            b"\x0a\x10", trace_id >> 64, trace_id & _LOW, b"\x12\x08", context.span_id
        )
    ]
    if parent is not None:
        parts.append(_PARENT.pack(b"\x22\x08", parent.span_id))
        if parent.is_remote:
            flags |= _IS_REMOTE
    name = span.name
    parts.append(_kept_name(name) if len(name) < _LONG else _name(name))
    kind = span.kind.value + 1  # 0 is "unspecified" in OTLP
    parts.append(_KIND_AND_TIMES.pack(0x30, kind, 0x39, start, 0x41, end))
    for key, value in (attributes or {}).items():
        is_short = len(key) < _LONG and (
            type(value) in _KEPT_NUMBERS
            or (type(value) is str and len(value) < _KEPT_LENGTH)
        )
        encode = _kept_attribute if is_short else _attribute
        data = encode(key, value)
        if data is None:
            return None
        parts.append(data)
    parts.append(_NO_STATUS)
    parts.append(_FLAGS.pack(b"\x85\x01", flags))
    return b"".join(parts)


def _name(name: str) -> bytes:
    return b"\x2a" + _text(name)  # name = 5


_kept_name = lru_cache(KEPT)(_name)


def _attribute(key: str, value: Any) -> bytes | None:
    """Return an attribute with tag and length; None where its value is of another kind."""
    kind = type(value)
    if kind is str:
        data = b"\x0a" + _text(value)
    elif kind is float:
        data = _DOUBLE.pack(0x21, value)
    elif kind is bool:
        data = b"\x10\x01" if value else b"\x10\x00"
    elif kind is int and -(2**63) <= value < 2**63:
        data = b"\x18" + _varint(value & _LOW)
    else:
        return None
    pair = (
        (_kept_key(key) if len(key) < _LONG else _key(key))
        + b"\x12"
        + _varint(len(data))
        + data
    )  # value = 2
    return b"\x4a" + _varint(len(pair)) + pair  # attributes = 9


_kept_attribute = lru_cache(KEPT, typed=True)(_attribute)


def _key(key: str) -> bytes:
    return b"\x0a" + _text(key) if key else b""  # key = 1


_kept_key = lru_cache(KEPT)(_key)


def _text(text: str) -> bytes:
    data = text.encode()
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    if number < 128:
        return _BYTES[number]
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_BYTES = [bytes((number,)) for number in range(128)]

_known: dict[tuple[int, int], tuple[Any, Any, bytes, bytes]] = {}


def _headers(span: ReadableSpan) -> tuple[bytes, bytes]:
    """Return what the SDK makes of a span's resource and scope, without any span."""
    resource, scope = span.resource, span.instrumentation_scope
    key = (id(resource), id(scope))
    found = _known.get(key)
    if found is None or found[0] is not resource or found[1] is not scope:
        (resource_spans,) = encode_spans_slowly([span]).resource_spans
        (scope_spans,) = resource_spans.scope_spans
        scope_spans.ClearField("spans")
        scope_header = scope_spans.SerializeToString()
        resource_spans.ClearField("scope_spans")
        if len(_known) >= GROUPS_KEPT:
            _known.clear()
        found = (resource, scope, resource_spans.SerializeToString(), scope_header)
        _known[key] = found
    return found[2], found[3]


def is_faithful() -> bool:
    """Return whether this encoder makes of a span what the installed SDK's makes."""
    span = EndedSpan(
        name="é",
        context=SpanContext(2**127 + 1, 3, is_remote=False, trace_flags=TraceFlags(1)),
        parent=SpanContext(2**127 + 1, 4, is_remote=True, trace_flags=TraceFlags(3)),
        resource=Resource({"a": "b"}, "https://example.org/r"),
        attributes={"t": "é", "l": "x" * 300, "f": 0.5, "i": -1, "b": True, "": 0},
        kind=SpanKind.CONSUMER,
        start_time=1,
        end_time=2,
        instrumentation_scope=InstrumentationScope("s", "1", "https://example.org/s"),
    )
    root = EndedSpan(
        name="r",
        context=span.context,
        resource=Resource.get_empty(),  # by default the SDK asks its detectors
        start_time=1,
        end_time=2,
    )
    return all(
        encode_spans([each]) == encode_spans_slowly([each]) for each in (span, root)
    )
