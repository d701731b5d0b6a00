# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the channel: one datagram each, with items of one signal and one resource.

    checksum | magic  signal  version  digest | length  count  0 | (length, frame) …

The digest names the resource by its content. The resource itself is a message of its
own (signal 0), which each process sends once (``ring_resources.py`` keeps it). A number
would be shorter, but would mean nothing to the successor of a killed exporter process.

A message with a signal and no items is a flush: it asks the exporter process to report
when it has sent all earlier items of that signal.

A message contains its own length, so that one that lies in the ring (``ring.py``) is
complete or recognizably not. The socket pair has no name, so only our own processes
write to it. The checksum detects data that other code writes to the descriptor by
mistake.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"oc"

# Of the messages and the frames in them. A spool file of another version is left alone.
VERSION = 1

# Number of the signal of a message with a resource.
RESOURCE = 0

# checksum of all that follows; magic, number of the signal, version, digest of the
# resource; length of the whole message, how many items, nothing
HEADER = struct.Struct("=I2sBB16sIHH")
_CHECKED = struct.Struct("=2sBB16s")
_SIZES = struct.Struct("=IHH")
_ONE = struct.Struct("=IHHI")  # and the length of the only frame
_CHECKSUM = struct.Struct("=I")
LENGTH = struct.Struct("=I")
_FLUSH = struct.Struct("=HQ")

NO_DIGEST = bytes(16)

# Several items are put together up to this size.
MESSAGE_BYTES = 32 * 1024

MAX_COUNT = 1000

# A larger resource is cut (``marshalled.py``): its message must fit the socket's send
# buffer, 212,992 bytes on a stock Linux kernel (net.core.wmem_default).
RESOURCE_BYTES = 128 * 1024


class FrameError(Exception):
    """A message that is not one of ours; counted by the exporter process."""


class Header(NamedTuple):
    """What a message says of itself.

    Attributes:
        signal: Its number; ``RESOURCE`` for a resource.
        item_count: How many items; 0 for a flush and for a resource.
        digest: Names the resource.
        length: Of the whole message, in bytes.
    """

    signal: int
    item_count: int
    digest: bytes
    length: int


class Envelope:
    """What all messages with items of a signal and a resource have in common, made once.

    Args:
        signal: Number of the signal.
        resource: The resource, encoded.

    Attributes:
        digest: Names the resource.
        epoch: In which the exporter process was sent the resource by this process
            (``Counters.resource_epoch``); -1 for never.
    """

    __slots__ = ("_checksum", "_head", "digest", "epoch", "resource")

    def __init__(self, signal: int, resource: bytes) -> None:
        self.resource = resource
        self.digest = digest_of(resource)
        self.epoch = -1
        self._head = _CHECKED.pack(MAGIC, signal, VERSION, self.digest)
        self._checksum = zlib.crc32(self._head)

    def message(self, frames: Sequence[bytes]) -> bytes:
        """Return one message with these frames."""
        if len(frames) == 1:  # as nearly all are
            data = frames[0]
            size = len(data)
            rest = _ONE.pack(HEADER.size + LENGTH.size + size, 1, 0, size) + data
            checksum = _CHECKSUM.pack(zlib.crc32(rest, self._checksum))
            return checksum + self._head + rest
        parts: list[bytes] = []
        for data in frames:
            parts += (LENGTH.pack(len(data)), data)
        body = b"".join(parts)
        sizes = _SIZES.pack(HEADER.size + len(body), len(frames), 0)
        rest = sizes + body
        checksum = _CHECKSUM.pack(zlib.crc32(rest, self._checksum))
        return b"".join((checksum, self._head, rest))

    def resource_message(self) -> bytes:
        """Return the message that makes the resource known."""
        return _whole(RESOURCE, 0, self.digest, self.resource)


def digest_of(resource: bytes) -> bytes:
    """Return the 16 bytes that name a resource."""
    return hashlib.blake2b(resource, digest_size=16).digest()


def flush_message(signal: int, row: int, token: int) -> bytes:
    """Return a message that asks the exporter process to say when it has sent all before.

    Args:
        signal: Number of the signal.
        row: Row of the counters in which it says so.
        token: Monotonic nanoseconds; a later flush also completes all earlier ones.
    """
    return _whole(signal, 0, NO_DIGEST, _FLUSH.pack(row, token))


def _whole(signal: int, count: int, digest: bytes, body: bytes) -> bytes:
    head = _CHECKED.pack(MAGIC, signal, VERSION, digest)
    data = head + _SIZES.pack(HEADER.size + len(body), count, 0) + body
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


def read_header(memory: memoryview, start: int, size: int) -> Header:
    """Return the header of a message, after checking it.

    Args:
        memory: Where it lies.
        start: Its first byte.
        size: How many bytes were received there.

    Raises:
        FrameError: Not one of ours, or damaged.
    """
    if size < HEADER.size:
        raise FrameError("shorter than a header")
    checksum, magic, signal, version, digest, length, count, _ = HEADER.unpack_from(
        memory, start
    )
    if magic != MAGIC or version != VERSION:
        raise FrameError("not a message of this launcher")
    if length != size:
        raise FrameError("not its length")
    if zlib.crc32(memory[start + _CHECKSUM.size : start + size]) != checksum:
        raise FrameError("damaged")
    # As Header(…) at a third of its cost: it is called for each message.
    return tuple.__new__(Header, (signal, count, digest, length))


def split_frames(body: bytes) -> list[bytes]:
    """Return the frames in the body of a message.

    Raises:
        FrameError: Not one of ours.
    """
    frames = []
    position, size = 0, len(body)
    if size >= 4 and LENGTH.unpack_from(body)[0] == size - 4:  # as nearly all are
        return [body[4:]]
    try:
        while position < size:
            (length,) = LENGTH.unpack_from(body, position)
            position += 4  # LENGTH.size
            frames.append(body[position : position + length])
            position += length
    except struct.error as exc:
        raise FrameError(f"not a length: {exc!r}") from exc
    return frames
