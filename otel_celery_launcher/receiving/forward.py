# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Handing requests on to another collector, byte for byte.

One thread; what waits is bounded by bytes, and counted where it does not fit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import grpc

from otel_celery_launcher.otlp_checks import split_endpoint
from otel_celery_launcher.receiving.grpc_server import MESSAGE_BYTES, METHOD

if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUE_BYTES = 64 * 1024 * 1024
CALL_SECONDS = 10.0
PAUSE_SECONDS = 1.0  # before a call is made again

# Headers of one connection, which the next one has of its own.
_HOP = (
    "accept",
    "accept-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "content-type",
    "content-length",
    "content-encoding",
    "te",
    "host",
)

# What may go better the next time (OTLP specification, "Failures").
_RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Forwarder:
    """Sends from its making until ``stop``.

    Args:
        endpoint: Of the other collector, gRPC; TLS where it begins with ``https``.

    Attributes:
        sent: Requests that it took.
        lost: Requests that it refused, or that had no room here.
    """

    def __init__(self, endpoint: str) -> None:
        parts = split_endpoint(endpoint)
        target = f"{parts.hostname}:{parts.port or 4317}"
        options = [("grpc.max_send_message_length", MESSAGE_BYTES)]
        if parts.scheme == "https":
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._call = self._channel.unary_unary(METHOD)
        self._waiting: deque[tuple[bytes, list[tuple[str, str]]]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._end: float | None = None  # monotonic; when to give up
        self.sent = self.lost = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, request: bytes, headers: Iterable[tuple[str, str | bytes]]) -> None:
        """Hand a request on, with the headers that are not of its connection."""
        kept = [
            (key.lower(), value)
            for key, value in headers
            if isinstance(value, str)
            and not key.startswith(("grpc-", ":"))
            and key.lower() not in _HOP
        ]
        with self._changed:
            if self._bytes + len(request) > QUEUE_BYTES:
                self.lost += 1
                return
            self._waiting.append((request, kept))
            self._bytes += len(request)
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Send what waits, and count as lost what is not taken in this time."""
        with self._changed:
            self._end = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 1)
        self._channel.close()
        self.lost += len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._end is not None:
                        return
                    self._changed.wait()
                request, headers = self._waiting[0]
            if not self._send(request, headers):
                return
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(request)

    def _send(self, request: bytes, headers: list[tuple[str, str]]) -> bool:
        """Send until it is taken or refused; False where the time is over."""
        while self._end is None or time.monotonic() < self._end:
            if self._is_done(request, headers):
                return True
            with self._changed:
                self._changed.wait(PAUSE_SECONDS)
        return False

    def _is_done(self, request: bytes, headers: list[tuple[str, str]]) -> bool:
        """Send once; return whether it has been taken or refused."""
        try:
            self._call(request, timeout=CALL_SECONDS, metadata=headers)
        except grpc.RpcError as exc:
            if exc.code() in _RETRYABLE:
                return False
            self.lost += 1
        else:
            self.sent += 1
        return True
