# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Spans as they come over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

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


def read_request(data: bytes) -> list[ReceivedSpan]:
    """Return the spans of an OTLP request.

    Raises:
        ValueError: It is none.
    """
    try:
        request = ExportTraceServiceRequest.FromString(data)
    except DecodeError as exc:
        raise ValueError("not an OTLP trace request") from exc
    found = []
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            found += [
                ReceivedSpan(
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                    is_error=span.status.code == 2,
                    status_text=span.status.message,
                    attributes=_attributes(span.attributes),
                    events=tuple(
                        (event.name, _attributes(event.attributes))
                        for event in span.events
                    ),
                    links=tuple(link.span_id.hex() for link in span.links),
                    resource=resource,
                    scope=scope_spans.scope.name,
                )
                for span in scope_spans.spans
            ]
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    pairs_: list[KeyValue] = list(pairs)
    return {pair.key: _value(pair.value) for pair in pairs_}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
