# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Forwards requests to another collector, byte for byte.

Uses one thread. The queue is bounded by bytes; a request that does not fit is counted.
A request that the collector does not accept is requeued last, so that it delays no
other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from otel_celery_launcher.receiver.grpc_server import (
    LOGS_METHOD,
    MESSAGE_BYTES,
    METHOD,
    METRICS_METHOD,
)
from otel_celery_launcher.receiver.metadata import as_metadata
from otel_celery_launcher.settings.otlp_checks import split_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

# Requests that wait while the collector is away: minutes of a development machine, and
# small beside what a machine has.
QUEUE_BYTES = 64 * 1024 * 1024
REQUEST_BYTES = 500  # of a request beside its bytes: its headers' objects, its place
CALL_SECONDS = 10.0
PAUSE_SECONDS = 1.0  # before the next call, where one was not taken

# What may go better the next time (OTLP specification, "Failures").
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    body: bytes
    metadata: list[tuple[str, str | bytes]]

    @property
    def size_bytes(self) -> int:
        headers = sum(len(name) + len(value) for name, value in self.metadata)
        return len(self.body) + headers + REQUEST_BYTES


class Forwarder:
    """Sends from its creation until ``stop``.

    Args:
        endpoint: The other collector's gRPC endpoint; TLS if it starts with ``https``.

    Attributes:
        sent: Requests that it accepted.
        refused: Requests that it refused, or that gRPC cannot send.
        left: Requests that still waited at the end.
        dropped: Requests that had no room here.
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
        self._calls = {
            method: self._channel.unary_unary(method)
            for method in (METHOD, METRICS_METHOD, LOGS_METHOD)
        }
        self._waiting: deque[_Request] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._end: float | None = None  # monotonic; when to give up
        self.sent = self.refused = self.left = self.dropped = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        lost = self.refused + self.left + self.dropped
        why = f" ({self.dropped} had no room)" if self.dropped else ""
        return f"{self.sent} requests forwarded, {lost} not{why}"

    def put(
        self,
        body: bytes,
        headers: Iterable[tuple[str, str | bytes]],
        method: str = METHOD,
    ) -> None:
        """Hand a request on, with the headers that are not of its connection."""
        request = _Request(method, body, as_metadata(headers))
        with self._changed:
            if self._bytes + request.size_bytes > QUEUE_BYTES:
                self.dropped += 1
                return
            self._waiting.append(request)
            self._bytes += request.size_bytes
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Send what waits, and count what is not taken in this time."""
        with self._changed:
            self._end = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 1)
        self._channel.close()  # cuts a call that is under way
        self._thread.join(1)
        self.left = len(self._waiting)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            is_done = self._is_done(request)
            with self._changed:
                self._waiting.popleft()
                if is_done:
                    self._bytes -= request.size_bytes
                else:
                    self._waiting.append(request)
                    self._pause()

    def _next(self) -> _Request | None:
        """Wait for a request; None where all are sent, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._end is not None)
            is_over = self._end is not None and time.monotonic() >= self._end
            return None if is_over or not self._waiting else self._waiting[0]

    def _pause(self) -> None:
        """Wait a moment; the call to stop ends it, further requests do not."""
        is_ending = self._end is not None
        self._changed.wait_for(
            lambda: (self._end is not None) is not is_ending, PAUSE_SECONDS
        )

    def _is_done(self, request: _Request) -> bool:
        """Send once; return whether it has been taken or refused."""
        try:
            call = self._calls[request.method]
            call(request.body, timeout=CALL_SECONDS, metadata=request.metadata)
        except grpc.RpcError as exc:
            if _may_succeed_later(exc):
                return False
            self.refused += 1
        except (TypeError, ValueError):  # gRPC cannot send it; the next one, it may
            self.refused += 1
        else:
            self.sent += 1
        return True


def _may_succeed_later(error: grpc.RpcError) -> bool:
    """Return whether to send again.

    RESOURCE_EXHAUSTED is also the answer to a request that is too large for the other
    side, for ever; one that asks for another try says when.
    """
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailers = dict(error.trailing_metadata() or ())
        details = trailers.get("grpc-status-details-bin", b"")
        return b"google.rpc.RetryInfo" in details
    return error.code() in _RETRYABLE
