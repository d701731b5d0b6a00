# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The standard library's HTTP server, bounded: in connections, and in the time of each.

For development: one thread a connection. The OTLP receiver and the live page are made of
it.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from otel_celery_launcher.receiver.http_body import DeadlineReader


class BoundedHttpServer(ThreadingHTTPServer):
    """Listens from its making until ``stop``.

    Args:
        address: Host and port.
        handler: Of each connection.
        connections: A thread each; more of them are closed at once.

    Raises:
        OSError: The port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BoundedHandler],
        connections: int,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._free = threading.Semaphore(connections)
        super().__init__(address, handler)
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or close it."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection (its thread)."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class BoundedHandler(BaseHTTPRequestHandler):
    """Serves one connection, until a request takes too long to come.

    Attributes:
        idle_seconds: Until a request's headers are there, also on a kept connection.
        reader: Reads the connection; its deadline may be moved.
    """

    protocol_version = "HTTP/1.1"
    idle_seconds: float

    def setup(self) -> None:
        """Read the connection with a deadline."""
        super().setup()
        self.reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self.reader)

    def handle(self) -> None:
        """Serve a connection until either side has enough."""
        with contextlib.suppress(OSError):  # the client has left: nobody to answer
            super().handle()

    def handle_one_request(self) -> None:
        """Serve a request, or close a connection on which none comes."""
        self.reader.deadline = time.monotonic() + self.idle_seconds
        super().handle_one_request()

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is for traces."""
