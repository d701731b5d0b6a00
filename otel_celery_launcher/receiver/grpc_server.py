# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP/gRPC server that hands on each request's very bytes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

# Takes a request and its context.
Take = Callable[[bytes, grpc.ServicerContext], None]

# Twice a Collector's default limit for gRPC. A decoded request of many small parts
# takes up to fifty times its bytes (measured), so the limit is no higher.
MESSAGE_BYTES = 8 * 1024 * 1024

THREADS = 8

# Requests whose bytes are in memory before a thread has time for them; more are refused
# at once with RESOURCE_EXHAUSTED. A fleet sends one call a process, and few at a moment.
# (A limit of HTTP/2 streams would make clients wait, but it cuts off those that send a
# burst before they have read it.)
CALLS = 256


class GrpcServer:
    """Listens from its making until ``stop``.

    Args:
        take: Called with each request and its context, in a thread of the server;
            a ValueError is the answer INVALID_ARGUMENT.
        port: 0 lets the system choose.
        host: Name or address to listen on.
        credentials: For TLS.
        take_metrics: The same for metrics; None answers UNIMPLEMENTED.
        take_logs: The same for log records.

    Attributes:
        port: The one it listens on.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        take: Take,
        port: int = 0,
        host: str = "127.0.0.1",
        credentials: grpc.ServerCredentials | None = None,
        take_metrics: Take | None = None,
        take_logs: Take | None = None,
    ) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="receiver"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ],
            maximum_concurrent_rpcs=CALLS,
        )
        takes = {METHOD: take, METRICS_METHOD: take_metrics, LOGS_METHOD: take_logs}
        self._server.add_generic_rpc_handlers((_Export(takes),))
        address = f"{host}:{port}"
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise OSError(f"{address} cannot be listened on") from exc
        self._server.start()

    def stop(self, grace: float | None = None) -> None:
        """Stop listening.

        Args:
            grace: Seconds for calls under way; None cuts them.
        """
        self._server.stop(grace).wait(5)


class _Export(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, takes: dict[str, Take | None]) -> None:
        self._takes = takes

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        take = self._takes.get(call.method)
        if take is None:
            return None
        return grpc.unary_unary_rpc_method_handler(partial(self._export, take))

    @staticmethod
    def _export(take: Take, request: bytes, context: grpc.ServicerContext) -> bytes:
        if len(request) > MESSAGE_BYTES:  # decompressed; older gRPC does not look
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"larger than {MESSAGE_BYTES} bytes"
            )
        try:
            take(request, context)
        except ValueError as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        return b""  # a response without a word
