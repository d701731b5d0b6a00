# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the channel: one datagram each, with items of one signal and one resource.

    checksum | magic  signal  resource length | resource | count | (length, frame) …

A message without items is a flush: it asks the exporter process to report when it has
sent all earlier items of that signal.

Every message carries its whole resource. Numbers for known resources would be smaller,
but wrong after the exporter process was killed: its successor reads the kernel's unread
messages and does not know the numbers. The exporter process keeps one copy of each
resource.

The socket pair has no name, so only our own processes write to it. The checksum detects
data that other code writes to the descriptor by mistake.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"oc"

# checksum of all that follows, magic, number of the signal, length of the resource
_HEADER = struct.Struct("=I2sBI")
_CHECKED = struct.Struct("=2sBI")
_CHECKSUM = struct.Struct("=I")
_COUNT = struct.Struct("=H")
LENGTH = struct.Struct("=I")
_FLUSH = struct.Struct("=HQ")

# Several items are put together up to this size.
MESSAGE_BYTES = 32 * 1024

MAX_COUNT = 1000


class FrameError(Exception):
    """A message that is not one of ours; counted by the exporter process."""


class Message(NamedTuple):
    """A message, split.

    Attributes:
        signal: Its number.
        item_count: How many items; 0 for a flush.
        resource: Encoded; empty for a flush.
        body: The items, or the flush.
    """

    signal: int
    item_count: int
    resource: bytes
    body: bytes


class Envelope:
    """What all messages with items of a signal and a resource have in common, made once.

    Args:
        signal: Number of the signal.
        resource: The resource, encoded.
    """

    __slots__ = ("_checksum", "_head", "resource")

    def __init__(self, signal: int, resource: bytes) -> None:
        self.resource = resource
        self._head = _CHECKED.pack(MAGIC, signal, len(resource)) + resource
        self._checksum = zlib.crc32(self._head)

    def message(self, frames: Sequence[bytes]) -> bytes:
        """Return one message with these frames."""
        parts = [_COUNT.pack(len(frames))]
        for data in frames:
            parts += (LENGTH.pack(len(data)), data)
        body = b"".join(parts)
        checksum = _CHECKSUM.pack(zlib.crc32(body, self._checksum))
        return b"".join((checksum, self._head, body))


def flush_message(signal: int, row: int, token: int) -> bytes:
    """Return a message that asks the exporter process to say when it has sent all before.

    Args:
        signal: Number of the signal.
        row: Row of the counters in which it says so.
        token: Monotonic nanoseconds; a later flush also completes all earlier ones.
    """
    head = _CHECKED.pack(MAGIC, signal, 0)
    data = head + _COUNT.pack(0) + _FLUSH.pack(row, token)
    return _CHECKSUM.pack(zlib.crc32(data)) + data


def read_flush(body: bytes) -> tuple[int, int]:
    """Return row and token of a flush.

    Raises:
        FrameError: Not one of ours.
    """
    try:
        row, token = _FLUSH.unpack(body)
    except struct.error as exc:
        raise FrameError(f"not a flush: {exc!r}") from exc
    return row, token


def split_message(message: bytes | memoryview) -> Message:
    """Return what a message holds.

    Raises:
        FrameError: Not one of ours.
    """
    if len(message) < _HEADER.size:
        raise FrameError("shorter than a header")
    checksum, magic, signal, resource_length = _HEADER.unpack_from(message)
    if magic != MAGIC:
        raise FrameError("not a message of this launcher")
    whole = memoryview(message)
    if zlib.crc32(whole[_CHECKSUM.size :]) != checksum:
        raise FrameError("damaged")
    end = _HEADER.size + resource_length
    try:
        (count,) = _COUNT.unpack_from(message, end)
    except struct.error as exc:
        raise FrameError(f"not a count: {exc!r}") from exc
    body = whole[end + _COUNT.size :]
    return Message(signal, count, bytes(whole[_HEADER.size : end]), bytes(body))


def split_frames(body: bytes) -> list[bytes]:
    """Return the frames in the body of a message.

    Raises:
        FrameError: Not one of ours.
    """
    frames = []
    position = 0
    while position < len(body):
        try:
            (length,) = LENGTH.unpack_from(body, position)
        except struct.error as exc:
            raise FrameError(f"not a length: {exc!r}") from exc
        position += LENGTH.size
        frames.append(body[position : position + length])
        position += length
    return frames
