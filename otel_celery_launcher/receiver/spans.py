# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Spans as they come over the wire."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from otel_celery_launcher.receiver.span_limit import check_spans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8

# Of a span in memory beside its texts and values: the object, its ids, its place in the
# lists and dictionaries of its trace.
SPAN_BYTES = 1000

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """A span as it came over the wire; times in seconds since the epoch."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str  # empty for a root
    start: float
    end: float
    is_error: bool
    status_text: str
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    links: tuple[str, ...]
    resource: dict[str, Any]
    scope: str

    @property
    def service(self) -> str:
        """The service the span belongs to."""
        return str(self.resource.get("service.name", ""))


def read_request(data: bytes, *, is_brief: bool = False) -> list[ReceivedSpan]:
    """Return the spans of an OTLP request.

    Args:
        data: The request's bytes.
        is_brief: Leave out what a waterfall does not need: of the resource all but the
            service's name, the scope, and all events but exceptions.

    Raises:
        ValueError: It is not a request, or has too many spans.
    """
    check_spans(data)
    request = parse_request(ExportTraceServiceRequest, data, "trace")
    spans = []
    for resource_spans in request.resource_spans:
        resource = read_attributes(
            pair
            for pair in resource_spans.resource.attributes
            if not is_brief or pair.key == "service.name"
        )
        for scope_spans in resource_spans.scope_spans:
            scope = "" if is_brief else scope_spans.scope.name
            spans += [
                _span(span, resource, scope, is_brief) for span in scope_spans.spans
            ]
    return spans


def parse_request(kind: Any, data: bytes, name: str) -> Any:
    """Return a request's message.

    Args:
        kind: Class of the message.
        data: The request's bytes.
        name: Of the signal, as the error has it.

    Raises:
        ValueError: It is not a request of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError as exc:
        raise ValueError(f"not an OTLP {name} request") from exc


def _span(
    span: Span, resource: dict[str, Any], scope: str, is_brief: bool
) -> ReceivedSpan:
    events = [
        event for event in span.events if not is_brief or event.name == "exception"
    ]
    return ReceivedSpan(
        name=span.name,
        kind=_kind(span.kind),
        trace_id=read_id(span.trace_id, TRACE_ID_BYTES),
        span_id=read_id(span.span_id, SPAN_ID_BYTES),
        parent_id=read_id(span.parent_span_id, SPAN_ID_BYTES),
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        is_error=span.status.code == 2,
        status_text=span.status.message,
        attributes=read_attributes(span.attributes),
        events=tuple(
            (event.name, read_attributes(event.attributes)) for event in events
        ),
        links=tuple(read_id(link.span_id, SPAN_ID_BYTES) for link in span.links),
        resource=resource,
        scope=scope,
    )


def _kind(number: int) -> str:
    """Return the name of a kind; a later OTLP may have more (its enumerations are open)."""
    return KINDS[number if 0 <= number < len(KINDS) else 0]


def read_id(value: bytes, length: int) -> str:
    """Return an id in hex; any other length is refused, as the Collector does.

    Raises:
        ValueError: It is neither empty nor of that length.
    """
    if len(value) not in (0, length):
        raise ValueError(f"an id has {len(value)} bytes: expected {length}")
    return value.hex()


def memory_bytes(span: ReceivedSpan) -> int:
    """Return about how much memory a span takes.

    Many small values take ten times their bytes on the wire, so each one is counted.
    """
    return memory_bytes_of(
        span.name, span.status_text, span.attributes, span.events, span.links,
        span.resource, span.scope,
    )  # fmt: skip


def memory_bytes_of(*values: Any) -> int:
    """Return about how much memory an item with these values takes."""
    return SPAN_BYTES + sum(map(_memory_bytes, values))


def _memory_bytes(value: Any) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        for key, each in value.items():
            size += sys.getsizeof(key) + _memory_bytes(each)
    elif isinstance(value, (list, tuple)):
        size += sum(map(_memory_bytes, value))
    return size


def read_attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Return attributes as Python has them."""
    return {pair.key: read_value(pair.value) for pair in pairs}


def read_value(value: AnyValue) -> Any:
    """Return a value as Python has it."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [read_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return read_attributes(value.kvlist_value.values)
    return getattr(value, kind)
