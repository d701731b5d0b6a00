# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Encodes most spans as OTLP at a fifth of the SDK's cost; the SDK encodes all others.

A worker's spans are alike: names, scopes, resources and most attributes recur. These
are encoded once and cached, as are the attributes that all runs of a task share. The
SDK encodes spans that are not plain (``ipc/span_decoder.py``), and spans with
attributes other than text, numbers, booleans and lists of these. It encodes all spans
if ``is_faithful`` finds a difference.

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
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from otel_celery_launcher.delivery.otlp_wire import (
    GROUPS_KEPT,
    KEPT,
    LONG,
    LOW,
    Headers,
    OtherKindError,
    attribute,
    blocks,
    text,
)
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.ipc.marshalled import load
from otel_celery_launcher.ipc.span_decoder import (
    EndedSpan,
    FramedSpan,
    framed_span,
    read_span,
)
from otel_celery_launcher.ipc.span_frames import SpanRecord, encode_span, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_IDS = struct.Struct(">2sQQ2sQ")  # trace_id = 1, span_id = 2
_IDS_BELOW = struct.Struct(">2sQQ2sQ2sQ")  # and parent_span_id = 4
_KIND_AND_TIMES = struct.Struct("<BBBQBQ")  # kind = 6, start = 7, end = 8
_ATTRIBUTE = b"\x4a"  # attributes = 9

# status = 15, which is there and empty; flags = 16: whether the parent is remote is known,
# and whether it is
_END = struct.pack("<2s2sI", b"\x7a\x00", b"\x85\x01", 0x100)
_END_BELOW_REMOTE = struct.pack("<2s2sI", b"\x7a\x00", b"\x85\x01", 0x300)


def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return what the SDK's ``encode_spans`` returns, in another order.

    Each pair of a resource and a scope has a block of its own.

    Values that it would refuse are replaced: ``delivery/sanitizing.py``.
    """
    groups: dict[tuple[int, bytes], tuple[FramedSpan, list[bytes]]] = {}
    others: list[ReadableSpan] = []
    for span in spans:
        framed = span if type(span) is FramedSpan else _frame(span)
        if framed is None or (data := _encode_fast(framed)) is None:
            others.append(span)
            continue
        resource, record, _ = framed.frame
        key = (id(resource), record.scope or b"")
        group = groups.get(key)
        if group is None:
            group = groups[key] = (framed, [])
        group[1].append(data)
    request = encode_spans_slowly(sanitize(others))
    request.MergeFromString(
        blocks(
            (_headers.of(key, span.frame[0], span), encoded)
            for key, (span, encoded) in groups.items()
        )
    )
    return request


def _frame(span: ReadableSpan) -> FramedSpan | None:
    """Return a span of this process as if it came from another; None if that is slow."""
    try:
        record = SpanRecord._make(record_of(span))
    except MALFORMED_ERRORS:  # another library's span
        return None
    return framed_span(span.resource, record)


def _encode_fast(span: FramedSpan) -> bytes | None:
    """Return a span without its tag and length; None where the SDK has to be asked."""
    _, record, shared = span.frame
    name, context, parent, kind, start, end, _, _, own, *_ = record
    assert context is not None  # noqa: S101 - as _has_fast_encoding has seen
    try:
        trace_id, span_id, *_ = context
        high, low = trace_id >> 64, trace_id & LOW
        end_of_span = _END
        if parent is None:
            parts = [_IDS.pack(b"\x0a\x10", high, low, b"\x12\x08", span_id)]
        else:
            _, parent_id, is_remote, *_ = parent
            ids = (b"\x0a\x10", high, low, b"\x12\x08", span_id, b"\x22\x08", parent_id)
            parts = [_IDS_BELOW.pack(*ids)]
            if is_remote:
                end_of_span = _END_BELOW_REMOTE
        parts.append(_kept_name(name) if len(name) < LONG else _name(name))
        # 0 is "unspecified" in OTLP
        parts.append(_KIND_AND_TIMES.pack(0x30, kind + 1, 0x39, start, 0x41, end))
        if shared:
            names, data = _kept_attributes(shared)
            if not names.isdisjoint(own):
                return None
            parts.append(data)
        parts += [attribute(_ATTRIBUTE, key, value) for key, value in own.items()]
    except (OtherKindError, TypeError, UnicodeEncodeError, struct.error):
        return None
    parts.append(end_of_span)
    return b"".join(parts)


def _name(name: str) -> bytes:
    return b"\x2a" + text(name)  # name = 5


_kept_name = lru_cache(KEPT)(_name)


@lru_cache(GROUPS_KEPT)
def _kept_attributes(data: bytes) -> tuple[frozenset[str], bytes]:
    """Return names and OTLP of attributes that many spans have in common."""
    shared: dict[str, Any] = load(data)
    encoded = [attribute(_ATTRIBUTE, key, value) for key, value in shared.items()]
    return frozenset(shared), b"".join(encoded)


def _encode_headers(span: FramedSpan) -> tuple[bytes, bytes]:
    """Return a resource and a scope as the SDK encodes them, without any span."""
    (resource_spans,) = encode_spans_slowly([span]).resource_spans
    (scope_spans,) = resource_spans.scope_spans
    scope_spans.ClearField("spans")
    scope_header = scope_spans.SerializeToString()
    resource_spans.ClearField("scope_spans")
    return resource_spans.SerializeToString(), scope_header


_headers = Headers(_encode_headers)


def is_faithful() -> bool:
    """Return whether this encoder makes of a span what the installed SDK's makes."""
    span = EndedSpan(
        name="é",
        context=SpanContext(2**127 + 1, 3, is_remote=False, trace_flags=TraceFlags(1)),
        parent=SpanContext(2**127 + 1, 4, is_remote=True, trace_flags=TraceFlags(3)),
        resource=Resource({"a": "b"}, "https://example.org/r"),
        attributes={
            "t": "é",
            "l": "x" * 300,
            "f": 0.5,
            "i": -1,
            "b": True,
            "": 0,
            "s": ("x", 1),
        },
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
        encode_spans([given]) == encode_spans_slowly([each])
        for each in (span, root)
        for given in (each, read_span(each.resource, encode_span(each)))
    )
