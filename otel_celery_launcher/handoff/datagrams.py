# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the channel: one datagram each, with one or more spans of one resource.

    checksum | magic  kind  count  resource length | resource | (length, span) …

Every message carries its whole resource. Numbers for resources that were sent before
would be smaller, and wrong after the exporter process was killed: the next one finds
unread messages in the kernel and knows no numbers. The exporter keeps one copy of each.

The pair has no name, only our own processes write to it; the checksum is for what
something else may have written under its number.
"""

from __future__ import annotations

import struct
import zlib

MAGIC = b"oc"
KIND_SPANS = 1
KIND_FLUSH = 2

# checksum of all that follows, magic, kind, spans in the message, length of the resource
_HEADER = struct.Struct("=I2sBHI")
_CHECKED = struct.Struct("=2sBHI")
_CHECKSUM = struct.Struct("=I")
LENGTH = struct.Struct("=I")
FLUSH = struct.Struct("=HQ")

# Several spans are put together up to this size.
MESSAGE_BYTES = 32 * 1024

MAX_COUNT = 1000


class FrameError(Exception):
    """A message that is not one of ours; counted by the exporter process."""


class Envelope:
    """What all messages with one span of a resource have in common, made once.

    Args:
        resource: The resource, encoded.
    """

    __slots__ = ("_checksum", "_head", "resource")

    def __init__(self, resource: bytes) -> None:
        self.resource = resource
        self._head = _CHECKED.pack(MAGIC, KIND_SPANS, 1, len(resource)) + resource
        self._checksum = zlib.crc32(self._head)

    def message(self, span: bytes) -> bytes:
        """Return a message with a span."""
        body = LENGTH.pack(len(span)) + span
        checksum = _CHECKSUM.pack(zlib.crc32(body, self._checksum))
        return b"".join((checksum, self._head, body))


def join_message(resource: bytes, spans: list[bytes]) -> bytes:
    """Return one message with these spans of one resource."""
    parts = [_CHECKED.pack(MAGIC, KIND_SPANS, len(spans), len(resource)), resource]
    for data in spans:
        parts += (LENGTH.pack(len(data)), data)
    return _sealed(b"".join(parts))


def flush_message(row: int, token: int) -> bytes:
    """Return a message that asks the exporter to say when it has sent all before it.

    Args:
        row: Row of the counters in which it says so.
        token: Monotonic nanoseconds: what a later token covers, an earlier one does.
    """
    return _sealed(_CHECKED.pack(MAGIC, KIND_FLUSH, 0, 0) + FLUSH.pack(row, token))


def split_message(message: bytes | memoryview) -> tuple[int, int, bytes, bytes]:
    """Return kind, count of spans, resource and the rest of a message.

    Raises:
        FrameError: Not one of ours.
    """
    if len(message) < _HEADER.size:
        raise FrameError("shorter than a header")
    checksum, magic, kind, count, resource_length = _HEADER.unpack_from(message)
    if magic != MAGIC or kind not in (KIND_SPANS, KIND_FLUSH):
        raise FrameError("not a message of this launcher")
    whole = memoryview(message)
    if zlib.crc32(whole[_CHECKSUM.size :]) != checksum:
        raise FrameError("damaged")
    end = _HEADER.size + resource_length
    return kind, count, bytes(whole[_HEADER.size : end]), bytes(whole[end:])


def _sealed(data: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(data)) + data
