# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The resources that messages in the ring refer to, in the ring's own memory.

Two halves, of which one is in use: a word with the bytes used, then records. A record is
written behind the last one and becomes valid when the word is increased. If there is no
room, the records that are still needed are copied to the other half, and one word makes
that half the valid one. So a process can be killed at any step, and its successor finds
each resource.

Runs in the process that writes the ring.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_RECORD = struct.Struct("=16sI")
_USED_BYTES = 8


class RingResources:
    """A table of resources by their digest.

    Args:
        halves: The two halves of the memory.
        active: One word: which half is valid, 0 or 1.
        give_back: Called with 0 or 1 when that half is no longer needed.
    """

    def __init__(
        self,
        halves: tuple[memoryview, memoryview],
        active: memoryview,
        give_back: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._halves = halves
        self._words = tuple(half.cast("Q") for half in halves)
        self._active = active
        self._give_back = give_back
        self._found = dict(self._read())

    def __len__(self) -> int:
        return len(self._found)

    def get(self, digest: bytes) -> bytes | None:
        """Return a resource; None if it is not known."""
        return self._found.get(digest)

    def add(self, digest: bytes, data: bytes) -> bool:
        """Keep a resource; return False if there is no room for it."""
        if digest in self._found:
            return True
        half = self._active[0] & 1
        if not self._write(half, digest, data):
            return False
        self._found[digest] = data
        return True

    def keep_only(self, digests: Iterable[bytes]) -> None:
        """Forget all others, and reclaim their room."""
        before, after = self._active[0] & 1, 1 - (self._active[0] & 1)
        self._words[after][0] = 0
        kept = {
            digest: self._found[digest] for digest in digests if digest in self._found
        }
        for digest, data in kept.items():
            self._write(after, digest, data)
        self._active[0] = after
        self._found = kept
        self._words[before][0] = 0
        self._give_back(before)

    @property
    def room(self) -> int:
        """How many bytes there are for all records."""
        return len(self._halves[0]) - _USED_BYTES

    def size_of(self, digest: bytes) -> int:
        """Return how many bytes the record of a known resource takes."""
        return record_bytes(self._found[digest])

    @property
    def digests(self) -> list[bytes]:
        """The digests of all known resources."""
        return list(self._found)

    def _write(self, half: int, digest: bytes, data: bytes) -> bool:
        memory, words = self._halves[half], self._words[half]
        start = _USED_BYTES + words[0]
        end = start + record_bytes(data)
        if end > len(memory):
            return False
        _RECORD.pack_into(memory, start, digest, len(data))
        start += _RECORD.size
        memory[start : start + len(data)] = data
        words[0] = end - _USED_BYTES
        return True

    def _read(self) -> Iterable[tuple[bytes, bytes]]:
        half = self._active[0] & 1
        memory = self._halves[half]
        position, end = _USED_BYTES, _USED_BYTES + self._words[half][0]
        while position < min(end, len(memory)):
            digest, length = _RECORD.unpack_from(memory, position)
            position += _RECORD.size
            yield digest, bytes(memory[position : position + length])
            position += length


def record_bytes(data: bytes) -> int:
    """Return how many bytes a resource takes."""
    return _RECORD.size + len(data)
