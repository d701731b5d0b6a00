# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP/HTTP server (protobuf) that hands on each request's very bytes.

For development: one thread a connection, the standard library's own server.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from otel_celery_launcher.receiver.http_base import BoundedHandler, BoundedHttpServer
from otel_celery_launcher.receiver.http_body import (
    PIECE_BYTES,
    Budget,
    RefusalError,
    decode,
    read_body,
)

# Takes a request and its headers.
Take = Callable[[bytes, Mapping[str, str]], None]

PATH = "/v1/traces"
METRICS_PATH = "/v1/metrics"
LOGS_PATH = "/v1/logs"
PROTOBUF = "application/x-protobuf"

# A thread each; more of them are closed at once, and exporters try again.
CONNECTIONS = 256
BODIES_BYTES = 64 * 1024 * 1024  # of all requests under way together: eight large ones

IDLE_SECONDS = 60.0  # until a request's headers are there, also on a kept connection
BODY_SECONDS = (
    15.0  # from the headers to the end of the body: OTLP clients give up at 10
)
ANSWER_SECONDS = 5.0
LINGER_SECONDS = 2.0  # for what a refused client still sends


class HttpServer:
    """Listens from its making until ``stop``.

    Args:
        take: Called with each request and its headers; a ValueError is status 400.
        port: 0 lets the system choose.
        host: Name or address to listen on.
        take_metrics: The same for metrics; None answers 404.
        take_logs: The same for log records.

    Attributes:
        port: The one it listens on.
        stop: Stops listening.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        take: Take,
        port: int = 0,
        host: str = "127.0.0.1",
        take_metrics: Take | None = None,
        take_logs: Take | None = None,
    ) -> None:
        class Handler(_Handler):
            pass

        takes = {PATH: take, METRICS_PATH: take_metrics, LOGS_PATH: take_logs}
        Handler.takes = {path: each for path, each in takes.items() if each}
        Handler.budget = Budget(BODIES_BYTES)
        self._server = BoundedHttpServer((host, port), Handler, CONNECTIONS)
        self.port = self._server.port
        self.stop = self._server.stop


class _Handler(BoundedHandler):
    idle_seconds = IDLE_SECONDS
    takes: dict[str, Take]
    budget: Budget

    def do_POST(self) -> None:  # noqa: N802 - the name is the library's
        """Take a request."""
        self.reader.deadline = time.monotonic() + BODY_SECONDS
        with self.budget.account() as charge:
            try:
                body = read_body(self.headers, self.rfile, charge)
            except RefusalError as refusal:
                self._answer(refusal.status, str(refusal), is_last=True)
            except TimeoutError:
                text = f"the body has not come in {BODY_SECONDS:g} s"
                self._answer(HTTPStatus.REQUEST_TIMEOUT, text, is_last=True)
            else:
                self._answer(*self._take(body))

    def _take(self, body: bytes) -> tuple[HTTPStatus, str]:
        """Hand a request on; return the answer."""
        take = self.takes.get(self.path.partition("?")[0])
        if take is None:
            return (
                HTTPStatus.NOT_FOUND,
                f"expected one of {', '.join(self.takes)}",
            )
        if self.headers.get_content_type() != PROTOBUF:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {PROTOBUF}"
        try:
            body = decode(body, self.headers.get("Content-Encoding", ""))
            take(body, dict(self.headers))
        except RefusalError as refusal:
            return refusal.status, str(refusal)
        except ValueError as exc:
            return HTTPStatus.BAD_REQUEST, str(exc)
        return HTTPStatus.OK, ""

    def _answer(
        self, status: HTTPStatus, text: str = "", *, is_last: bool = False
    ) -> None:
        body = text.encode()
        self.connection.settimeout(ANSWER_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        if is_last:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if is_last:
            self._linger()

    def _linger(self) -> None:
        """Read what the client still sends, to the end or for a moment.

        A connection that is closed with unread bytes is reset, and the answer is lost.
        """
        self.connection.shutdown(socket.SHUT_WR)
        self.reader.deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            while self.rfile.read1(PIECE_BYTES):
                pass
