# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""One exporter's place in the ring: what it has taken, and what it has freed.

Lies beside ``ring.py``, whose lock protects it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from otel_celery_launcher.ipc.ring_head import CURSOR_WORDS

if TYPE_CHECKING:
    from otel_celery_launcher.ipc.datagrams import Header
    from otel_celery_launcher.ipc.ring import Ring


class Figures(Protocol):
    """Where a ring counts: ``counters.Figures``."""

    def add_received(self, count: int) -> None:
        """Count items that came."""

    def add_dropped(self, count: int) -> None:
        """Count items that had to go."""


class Reads(NamedTuple):
    """Which exporter a cursor is of.

    Attributes:
        signal: Number of its signal.
        name: Of the exporter; the two together identify the cursor in the ring.
        figures: Where its items are counted.
    """

    signal: int
    name: str
    figures: Figures


# A message that a cursor has taken: how many items, digest of the resource, and what is
# behind its header, copied out of the ring.
Taken = tuple[int, bytes, bytes]


class Cursor:
    """One exporter's place in the ring.

    Attributes:
        wake: Notified when there is something to do; its lock is the ring's.
        queued: Items that are not freed: they wait, or are being sent.
        waiting: Items that are not taken yet.
        waiting_bytes: Of the messages with them.
        flushes: Flushes that are not taken yet.
        repeated: Items that a predecessor had taken and not freed: it may have sent them.
    """

    def __init__(self, ring: Ring, table: memoryview, index: int, reads: Reads) -> None:
        self._ring = ring
        self.signal = reads.signal
        self.name = reads.name
        self.figures = reads.figures
        start = 1 + index * CURSOR_WORDS
        self._words = table[start : start + CURSOR_WORDS]
        self.wake = threading.Condition(ring.lock)
        self.position = self.mark
        self.queued = self.waiting = self.waiting_bytes = self.flushes = 0
        self.repeated = 0

    @property
    def mark(self) -> int:
        """The position of the first message that is not freed."""
        return self._words[0]

    @property
    def taken(self) -> int:
        """The position behind the last message that was taken, maybe by a predecessor."""
        return self._words[1]

    def set_mark(self, position: int) -> None:
        """Free what is before a position (with the ring's lock)."""
        self._words[0] = position
        self.position = max(self.position, position)

    def note_committed(self, header: Header) -> int:
        """Count a message behind those that are there (with the ring's lock).

        Returns:
            How many of its items are for this cursor.
        """
        signal, count, _, length = header
        if signal != self.signal:
            return 0
        self.queued += count
        self.waiting += count
        self.waiting_bytes += length
        if not count:
            self.flushes += 1
        return count

    def arrived(self) -> float:
        """Return the monotonic seconds at which the first waiting message came."""
        return self._ring.arrived(self.position)

    def take(self, items: int, size: int) -> list[Taken]:
        """Copy messages out, up to a number of items or bytes (with the lock).

        They stay in the ring until ``free``.
        """
        ring = self._ring
        taken: list[Taken] = []
        position = self.position
        while items > 0 and size > 0 and (header := ring.header_at(position)):
            signal, count, digest, length = header
            if signal == self.signal:
                items -= count
                size -= length
                self._note_taken(header)
                taken.append((count, digest, ring.body_at(position, header)))
            position = ring.next_position(position, length)
        is_all_free = self.mark == self.position
        self.position = self._words[1] = position
        if is_all_free and not taken:  # only messages of other signals
            self.set_mark(position)
        return taken

    def free(self, position: int, items: int) -> None:
        """Forget what was taken before a position (with the lock).

        Args:
            position: Of the cursor when that was taken.
            items: How many of them had not been freed before.
        """
        self.queued -= items
        self.set_mark(max(self.mark, position))

    def drop(self) -> None:
        """Drop the oldest message (with the lock): its room is needed.

        One that was taken is still in the memory of its sender, which counts it.
        """
        position = self.mark
        header = self._ring.header_at(position)
        if header is None:
            self.set_mark(self._ring.head)
            return
        if header.signal == self.signal and position >= self.position:
            self._note_taken(header)
            self.queued -= header.item_count
            self.figures.add_dropped(header.item_count)
        self.set_mark(self._ring.next_position(position, header.length))

    def _note_taken(self, header: Header) -> None:
        _, count, _, length = header
        self.waiting -= count
        self.waiting_bytes -= length
        if not count:
            self.flushes -= 1
