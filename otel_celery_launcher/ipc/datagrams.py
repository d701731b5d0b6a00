# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the channel: one datagram each, with one or more spans of one resource.

    checksum | magic  kind  resource length | resource | count | (length, span) …

Every message carries its whole resource. Numbers for resources that were sent before
would be smaller, and wrong after the exporter process was killed: the next one finds
unread messages in the kernel and knows no numbers. The exporter keeps one copy of each.

The pair has no name, only our own processes write to it; the checksum is for what
something else may have written under its number.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"oc"
KIND_SPANS = 1
KIND_FLUSH = 2

# checksum of all that follows, magic, kind, length of the resource
_HEADER = struct.Struct("=I2sBI")
_CHECKED = struct.Struct("=2sBI")
_CHECKSUM = struct.Struct("=I")
_COUNT = struct.Struct("=H")
LENGTH = struct.Struct("=I")
FLUSH = struct.Struct("=HQ")

# Several spans are put together up to this size.
MESSAGE_BYTES = 32 * 1024

MAX_COUNT = 1000


class FrameError(Exception):
    """A message that is not one of ours; counted by the exporter process."""


class Envelope:
    """What all messages with spans of a resource have in common, made once.

    Args:
        resource: The resource, encoded.
    """

    __slots__ = ("_checksum", "_head", "resource")

    def __init__(self, resource: bytes) -> None:
        self.resource = resource
        self._head = _CHECKED.pack(MAGIC, KIND_SPANS, len(resource)) + resource
        self._checksum = zlib.crc32(self._head)

    def message(self, spans: Sequence[bytes]) -> bytes:
        """Return one message with these spans."""
        parts = [_COUNT.pack(len(spans))]
        for data in spans:
            parts += (LENGTH.pack(len(data)), data)
        body = b"".join(parts)
        checksum = _CHECKSUM.pack(zlib.crc32(body, self._checksum))
        return b"".join((checksum, self._head, body))


def flush_message(row: int, token: int) -> bytes:
    """Return a message that asks the exporter to say when it has sent all before it.

    Args:
        row: Row of the counters in which it says so.
        token: Monotonic nanoseconds: what a later token covers, an earlier one does.
    """
    head = _CHECKED.pack(MAGIC, KIND_FLUSH, 0)
    data = head + _COUNT.pack(0) + FLUSH.pack(row, token)
    return _CHECKSUM.pack(zlib.crc32(data)) + data


def split_message(message: bytes | memoryview) -> tuple[int, int, bytes, bytes]:
    """Return kind, count of spans, resource and the rest of a message.

    Raises:
        FrameError: Not one of ours.
    """
    if len(message) < _HEADER.size:
        raise FrameError("shorter than a header")
    checksum, magic, kind, resource_length = _HEADER.unpack_from(message)
    if magic != MAGIC or kind not in (KIND_SPANS, KIND_FLUSH):
        raise FrameError("not a message of this launcher")
    whole = memoryview(message)
    if zlib.crc32(whole[_CHECKSUM.size :]) != checksum:
        raise FrameError("damaged")
    end = _HEADER.size + resource_length
    (count,) = _COUNT.unpack_from(message, end)
    body = whole[end + _COUNT.size :]
    return kind, count, bytes(whole[_HEADER.size : end]), bytes(body)
