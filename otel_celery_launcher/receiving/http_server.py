# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP/HTTP server (protobuf) that hands on each request's very bytes.

For development: one thread a connection, the standard library's own server.
"""

from __future__ import annotations

import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from otel_celery_launcher.receiving.grpc_server import MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"

# gzip and zlib, each by its own header (zlib.decompressobj).
_ANY_HEADER = 47


class HttpServer:
    """Listens from its making until ``stop``.

    Args:
        take: Called with each request and its headers; a ValueError is status 400.
        port: 0 lets the system choose.
        host: Name or address to listen on.

    Attributes:
        port: The one it listens on.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        take: Callable[[bytes, Mapping[str, str]], None],
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        class Handler(_Handler):
            pass

        Handler.take = staticmethod(take)
        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds, for a client that says nothing
    take: Callable[[bytes, Mapping[str, str]], None]

    def do_POST(self) -> None:
        """Take a request."""
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > MESSAGE_BYTES:
            self.close_connection = True  # what it says is not read
            self._answer(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MESSAGE_BYTES}"
            )
            return
        body = self.rfile.read(int(size))
        if self.path != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"traces are taken at {PATH}")
        elif self.headers.get_content_type() != PROTOBUF:
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {PROTOBUF}")
        else:
            self._take(body)

    def _take(self, body: bytes) -> None:
        try:
            if self.headers.get("Content-Encoding", "identity") != "identity":
                body = _inflate(body)
            self.take(body, dict(self.headers))
        except (ValueError, zlib.error) as exc:
            self._answer(HTTPStatus.BAD_REQUEST, str(exc))
        else:
            self._answer(HTTPStatus.OK)

    def _answer(self, status: HTTPStatus, text: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is for traces."""


def _inflate(body: bytes) -> bytes:
    """Return what is compressed; a bomb is cut where it is too large.

    Raises:
        ValueError: It is larger than a request may be.
        zlib.error: It is not compressed.
    """
    inflater = zlib.decompressobj(_ANY_HEADER)
    found = inflater.decompress(body, MESSAGE_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"larger than {MESSAGE_BYTES} bytes")
    return found
