# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The body of an HTTP request: whether or not its headers are right, bounded in bytes and in time."""

from __future__ import annotations

import contextlib
import io
import math
import re
import threading
import time
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.receiver.grpc_server import MESSAGE_BYTES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from email.message import Message

PIECE_BYTES = 64 * 1024

# A chunk's line has its size and extensions, a trailer is a header.
LINE_BYTES = 4096
TRAILERS = 100

# gzip and zlib, each by its own header (zlib.decompressobj).
_ANY_HEADER = 47
_SIZE = re.compile(r"[0-9]+")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(;.*)?\r?\n", re.DOTALL)
_TOO_LARGE = f"the request is too large: expected at most {MESSAGE_BYTES} bytes"


class RefusalError(Exception):
    """A request that is not taken, with the answer that it gets; the client can mend it."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Budget:
    """Bytes that all requests under way may hold together."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def account(self) -> Iterator[Callable[[int], None]]:
        """Yield what a request calls for each piece; all is given back at the end."""
        taken = 0

        def charge(size: int) -> None:
            nonlocal taken
            with self._lock:
                if size > self._left:
                    raise RefusalError(
                        HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once"
                    )
                self._left -= size
                taken += size

        try:
            yield charge
        finally:
            with self._lock:
                self._left += taken


class DeadlineReader(io.RawIOBase):
    """Reads from a socket until a moment.

    The socket's own timeout restarts with each byte, so a client that sends single
    bytes now and then would occupy its thread forever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = math.inf  # monotonic

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is, at least a byte.

        Raises:
            TimeoutError: The moment has come.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client is too slow")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def read_body(
    headers: Message, stream: io.BufferedIOBase, charge: Callable[[int], None]
) -> bytes:
    """Return a request's body.

    Args:
        headers: Of the request.
        stream: What follows them.
        charge: Called with the size of each piece before it is kept.

    Raises:
        RefusalError: Its length is missing, wrong, or more than a request may have.
    """
    body = bytearray()
    for piece in _pieces(headers, stream):
        if len(body) + len(piece) > MESSAGE_BYTES:
            raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        charge(len(piece))
        body += piece
    return bytes(body)


def _pieces(headers: Message, stream: io.BufferedIOBase) -> Iterator[bytes]:
    encoding = headers.get("Transfer-Encoding")
    if encoding is None:
        return _read(stream, _content_length(headers))
    if encoding.strip().lower() != "chunked":
        text = f"Transfer-Encoding is {encoding!r}: expected chunked"
        raise RefusalError(HTTPStatus.NOT_IMPLEMENTED, text)
    if headers.get("Content-Length") is not None:  # RFC 9112, 6.1: a sign of smuggling
        text = "Transfer-Encoding and Content-Length: expected one of them"
        raise RefusalError(HTTPStatus.BAD_REQUEST, text)
    return _read_chunks(stream)


def _content_length(headers: Message) -> int:
    lengths = {length.strip() for length in headers.get_all("Content-Length", [])}
    if not lengths:
        raise RefusalError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
    length = lengths.pop()
    if lengths or not _SIZE.fullmatch(length):
        text = f"Content-Length is {length[:100]!r}: expected one number of bytes"
        raise RefusalError(HTTPStatus.BAD_REQUEST, text)
    digits = length.lstrip("0") or "0"  # int() refuses thousands of digits
    if len(digits) > len(str(MESSAGE_BYTES)) or int(digits) > MESSAGE_BYTES:
        raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    return int(digits)


def _read(stream: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read1(min(left, PIECE_BYTES))
        if not piece:
            text = f"the body ended {left} bytes early"
            raise RefusalError(HTTPStatus.BAD_REQUEST, text)
        left -= len(piece)
        yield piece


def _read_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield the chunks of RFC 9112, 7.1; a gzip stream of some clients has no length."""
    while True:
        match = _CHUNK_SIZE.fullmatch(stream.readline(LINE_BYTES))
        if match is None:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "expected a chunk's size")
        size = int(match[1], 16)
        if size > MESSAGE_BYTES:
            raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        if size == 0:
            break
        yield from _read(stream, size)
        if stream.readline(LINE_BYTES) not in (b"\r\n", b"\n"):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "expected the end of a chunk")
    for _ in range(TRAILERS):
        if stream.readline(LINE_BYTES) in (b"\r\n", b"\n", b""):
            return
    raise RefusalError(HTTPStatus.BAD_REQUEST, "too many trailers")


def decode(body: bytes, encoding: str) -> bytes:
    """Return a body without its Content-Encoding; a bomb is cut where it is too large.

    Raises:
        RefusalError: The encoding is unknown, or the body is not of it, or too large.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        text = f"Content-Encoding is {encoding[:100]!r}: expected gzip or deflate"
        raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    inflater = zlib.decompressobj(_ANY_HEADER)
    try:
        data = inflater.decompress(body, MESSAGE_BYTES)
    except zlib.error as exc:
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"not {encoding}: {exc}") from exc
    if inflater.unconsumed_tail:
        raise RefusalError(HTTPStatus.BAD_REQUEST, _TOO_LARGE)
    if not inflater.eof or inflater.unused_data:
        text = f"the {encoding} body has no end, or goes on behind it"
        raise RefusalError(HTTPStatus.BAD_REQUEST, text)
    return data
