# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP/gRPC receiver in this process, for the demo and for tests.

Binds to the loopback interface only; keeps what it received in memory.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Callable

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


@dataclass
class Receiver:
    """The receiver; ``with Receiver() as receiver`` starts and stops it.

    Attributes:
        answer: Called with each request's metadata before it is stored; may raise,
            sleep, or abort the call through the context it gets.
    """

    port: int = 0
    answer: Callable[[grpc.ServicerContext], None] | None = None
    credentials: grpc.ServerCredentials | None = None
    spans: list[ReceivedSpan] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    arrived: dict[str, float] = field(default_factory=dict)  # name: seconds since epoch
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _server: grpc.Server | None = None

    def start(self) -> Receiver:
        """Listen; a port of 0 becomes the one the system chose."""
        self._server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="receiver"),
            options=[("grpc.so_reuseport", 0)],
        )
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            _Servicer(self), self._server
        )
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop listening and cut the connections."""
        if self._server is not None:
            self._server.stop(grace=None).wait(5)
            self._server = None

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        scheme = "http" if self.credentials is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def wait_for(
        self, is_enough: Callable[[list[ReceivedSpan]], bool], seconds: float
    ) -> list[ReceivedSpan]:
        """Wait until the spans suffice or the time is over; return what came."""
        end = time.monotonic() + seconds
        with self._arrived:
            while not is_enough(self.spans) and time.monotonic() < end:
                self._arrived.wait(end - time.monotonic())
            return list(self.spans)

    def clear(self) -> None:
        """Forget what came."""
        with self._arrived:
            self.spans.clear()

    def store(self, spans: list[ReceivedSpan]) -> None:
        """Keep spans and wake the waiting."""
        with self._arrived:
            self.arrived.update((span.name, time.time()) for span in spans)
            self.spans.extend(spans)
            self._arrived.notify_all()


class _Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(  # noqa: N802 - the name of the gRPC method
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        receiver = self._receiver
        if receiver.answer is not None:
            receiver.answer(context)
        receiver.peers.add(context.peer())
        receiver.metadata.append(
            {key: str(value) for key, value in context.invocation_metadata()}
        )
        receiver.store(read_request(request))
        return trace_service_pb2.ExportTraceServiceResponse()


def read_request(
    request: trace_service_pb2.ExportTraceServiceRequest,
) -> list[ReceivedSpan]:
    """Return the spans of an OTLP request."""
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
