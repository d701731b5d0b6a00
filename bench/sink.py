"""The null receiver: takes what is sent, keeps the bytes, counts when it is asked.

OTLP/gRPC, OTLP/HTTP, and the traces of a Datadog agent.
"""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from otel_celery_launcher.receiver.grpc_server import GrpcServer

if TYPE_CHECKING:
    from collections.abc import Callable


class Sink:
    """Listens from its making until ``stop``.

    Attributes:
        grpc: Port of OTLP/gRPC.
        http: Port of the others.
    """

    def __init__(self) -> None:
        self._otlp: list[bytes] = []
        self._others: list[tuple[int, int]] = []  # bytes, spans
        self._grpc = GrpcServer(lambda data, _: self._otlp.append(data))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._take))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.grpc, self.http = self._grpc.port, self._http.server_port

    def stop(self) -> None:
        self._grpc.stop()
        self._http.shutdown()

    def clear(self) -> None:
        self._otlp.clear()
        self._others.clear()

    def spans(self) -> int:
        return sum(map(_spans, list(self._otlp))) + sum(
            each for _, each in self._others
        )

    def bytes(self) -> int:
        return sum(map(len, list(self._otlp))) + sum(each for each, _ in self._others)

    def _take(self, path: str, headers: Any, data: bytes) -> None:
        if path.endswith("/v1/traces"):
            is_zipped = headers.get("Content-Encoding") == "gzip"
            spans = _spans(gzip.decompress(data) if is_zipped else data)
            self._others.append((len(data), spans))
        elif path.endswith("/traces"):  # a Datadog agent's: runs alone are counted
            self._others.append((len(data), data.count(b"\xaacelery.run")))


def _spans(request: bytes) -> int:
    found = ExportTraceServiceRequest.FromString(request)
    return sum(
        len(part.spans) for block in found.resource_spans for part in block.scope_spans
    )


def _handler(
    take: Callable[[str, Any, bytes], None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            take(self.path, self.headers, data)
            self._answer()

        do_PUT = do_POST  # noqa: N815 - the name is the library's

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self) -> None:
            body = b"" if self.path.endswith("/v1/traces") else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
