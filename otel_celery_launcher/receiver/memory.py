# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP/gRPC receiver in this process that keeps all, for the demo and for tests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_celery_launcher.receiver.grpc_server import GrpcServer
from otel_celery_launcher.receiver.logs import ReceivedLog, read_logs
from otel_celery_launcher.receiver.metrics import ReceivedPoint, read_metrics
from otel_celery_launcher.receiver.spans import ReceivedSpan, read_request

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc


@dataclass
class Receiver:
    """The receiver; ``with Receiver() as receiver`` starts and stops it.

    Attributes:
        answer: Called with each request's metadata before it is stored; may raise,
            sleep, or abort the call through the context it gets.
        takes_metrics: Whether it has a service for metrics; if not, it answers
            UNIMPLEMENTED.
        takes_logs: Likewise for log records.
    """

    port: int = 0
    answer: Callable[[grpc.ServicerContext], None] | None = None
    credentials: grpc.ServerCredentials | None = None
    takes_metrics: bool = True
    takes_logs: bool = True
    spans: list[ReceivedSpan] = field(default_factory=list)
    points: list[ReceivedPoint] = field(default_factory=list)  # in order of arrival
    logs: list[ReceivedLog] = field(default_factory=list)  # likewise
    metadata: list[dict[str, str]] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    arrived: dict[str, float] = field(default_factory=dict)  # name: seconds since epoch
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _server: GrpcServer | None = None

    def start(self) -> Receiver:
        """Listen; a port of 0 becomes the one the system chose."""
        self._server = GrpcServer(
            self._take,
            self.port,
            credentials=self.credentials,
            take_metrics=self._take_metrics if self.takes_metrics else None,
            take_logs=self._take_logs if self.takes_logs else None,
        )
        self.port = self._server.port
        return self

    def stop(self) -> None:
        """Stop listening and cut the connections."""
        if self._server is not None:
            self._server.stop()
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

    def wait_for_points(
        self, is_enough: Callable[[list[ReceivedPoint]], bool], seconds: float
    ) -> list[ReceivedPoint]:
        """Wait until the last points of each series suffice; return these."""
        end = time.monotonic() + seconds
        with self._arrived:
            while not is_enough(self.last_points()) and time.monotonic() < end:
                self._arrived.wait(max(0.0, end - time.monotonic()))
            return self.last_points()

    def wait_for_logs(
        self, is_enough: Callable[[list[ReceivedLog]], bool], seconds: float
    ) -> list[ReceivedLog]:
        """Wait until the log records suffice or the time is over; return what came."""
        end = time.monotonic() + seconds
        with self._arrived:
            while not is_enough(self.logs) and time.monotonic() < end:
                self._arrived.wait(max(0.0, end - time.monotonic()))
            return list(self.logs)

    def last_points(self) -> list[ReceivedPoint]:
        """Return the last point of each series, by service instance."""
        last = {
            (point.key, point.resource.get("service.instance.id")): point
            for point in self.points
        }
        return list(last.values())

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

    def store_metrics(self, request: bytes) -> None:
        """Keep the points of an OTLP request; ValueError if it is not one."""
        points = read_metrics(request)
        with self._arrived:
            self.points.extend(points)
            self._arrived.notify_all()

    def store_logs(self, request: bytes) -> None:
        """Keep the log records of an OTLP request; ValueError if it is not one."""
        logs = read_logs(request)
        with self._arrived:
            self.logs.extend(logs)
            self._arrived.notify_all()

    def _take_metrics(self, request: bytes, context: grpc.ServicerContext) -> None:
        if self.answer is not None:
            self.answer(context)
        self.store_metrics(request)

    def _take_logs(self, request: bytes, context: grpc.ServicerContext) -> None:
        if self.answer is not None:
            self.answer(context)
        self.store_logs(request)

    def _take(self, request: bytes, context: grpc.ServicerContext) -> None:
        if self.answer is not None:
            self.answer(context)
        self.peers.add(context.peer())
        self.metadata.append(
            {key: str(value) for key, value in context.invocation_metadata()}
        )
        self.store(read_request(request))
