# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The ring: the queue of the exporter process, in memory that outlives it.

The worker's main process makes the memory, and every exporter process inherits it. A
datagram is received into the ring, and one word commits it. What is in the ring belongs
to the worker, not to the process that happens to send it: a successor begins with what
the collector has not taken. When the ring is full, the oldest message is dropped and
counted.

    head page | resources (``ring_resources.py``) | slot, slot, … | slack

A slot is a word with the length of its message (0: nothing is committed here), the time
at which it came, and the message. A slot begins before the end of the ring; its message
may reach into the slack, so no message is split. Positions count laps (the upper 32
bits), so they can be compared.

Killed at any step, a process leaves a ring that its successor can read:

* The slot behind a message is zeroed before the message is committed, and again before
  the next receive. So the chain of slots ends at the head, even where an old message of
  the lap before lies there.
* A message that was received and not committed is found by its own length and checksum.
* Each exporter has its own mark: what is before it was taken by the collector, dropped
  or refused. A second word says how far it has read; what lies between may come twice.

One process at a time writes: it holds a lock on the memory, which the kernel releases
when that process ends. In it, one thread receives (the reader), and each exporter has a
thread that takes and frees.
"""

from __future__ import annotations

import mmap
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.channel import RECEIVE_BYTES
from otel_celery_launcher.ipc.datagrams import (
    HEADER,
    RESOURCE,
    FrameError,
    Header,
    read_header,
)
from otel_celery_launcher.ipc.ring_cursor import Cursor
from otel_celery_launcher.ipc.ring_head import (
    ACTIVE_WORD,
    ALIVE_WORD,
    HEAD_BYTES,
    MAGIC,
    MAGIC_WORD,
    SIZE_WORD,
    TABLE_WORD,
    WORD,
    RingError,
    read_table,
    table_in,
    write_table,
)
from otel_celery_launcher.ipc.ring_resources import RingResources, record_bytes

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.ipc.ring_cursor import Reads

# A word with the length of the message, and the monotonic seconds at which it came.
_SLOT_BYTES = 16
_ZEROED_BYTES = _SLOT_BYTES + HEADER.size
_NOTHING = bytes(_ZEROED_BYTES)

# The part of the ring's memory that each half of the resources has.
_RESOURCES_SHARE = 16

_LAP = 1 << 32
_OFFSET = _LAP - 1
FIRST_POSITION = _LAP

# An empty ring keeps so much of its memory; what is freed is given back in such pieces.
KEPT_BYTES = 512 * 1024


class Ring:
    """The queue; made anew in zeroed memory, or as a predecessor has left it.

    Args:
        memory: All of it.
        reads: The exporters that read it.
        on_forgotten: Called after resources had to go that living processes may still
            refer to.
        give_back: Called with start and length of memory whose content is not needed.
        slack: The bytes of the largest message.

    Raises:
        RingError: Another version's, or damaged.
    """

    def __init__(
        self,
        memory: mmap.mmap | memoryview,
        reads: Sequence[Reads],
        *,
        on_forgotten: Callable[[], object] = lambda: None,
        give_back: Callable[[int, int], object] = lambda *_: None,
        slack: int = RECEIVE_BYTES,
    ) -> None:
        whole = memoryview(memory)
        half = len(whole) // _RESOURCES_SHARE & -mmap.PAGESIZE
        self._start = HEAD_BYTES + 2 * half
        self._slack = slack
        self._capacity = (len(whole) - self._start - slack - _ZEROED_BYTES) & -WORD
        if half == 0 or self._capacity < slack + 2 * _ZEROED_BYTES:
            raise RingError(f"too small: {len(whole)} bytes")
        self.lock = threading.Lock()
        self._on_forgotten = on_forgotten
        self._give_back = give_back
        self._head_page = whole[:HEAD_BYTES]
        self._words = self._head_page.cast("Q")
        self._data = whole[self._start :]
        slots = self._data[: len(self._data) & -WORD]
        self._slots, self._times = slots.cast("Q"), slots.cast("d")
        table = self._prepare(len(whole), reads)
        self.resources = self._find_resources(whole, half)
        self._oldest_known = 0  # no mark is before it, since marks only increase
        self.committed = 0  # position of the last message that this process committed
        # By digest of a resource, the position of the last message with it.
        self._used: dict[bytes, int] = {}
        self.cursors = [
            Cursor(self, table, index, each) for index, each in enumerate(reads)
        ]
        self._recover()
        # What was used of the memory, as far as it is known here.
        self._freed_from = self._oldest()
        self._high = self._capacity

    def _find_resources(self, whole: memoryview, half: int) -> RingResources:
        middle = HEAD_BYTES + half
        return RingResources(
            (whole[HEAD_BYTES:middle], whole[middle : self._start]),
            self._words[ACTIVE_WORD : ACTIVE_WORD + 1],
            lambda number: self._give_back(HEAD_BYTES + number * half, half),
        )

    # How it is found.

    def _prepare(self, size: int, reads: Sequence[Reads]) -> memoryview:
        """Write the head page of a new ring; return the table of its cursors."""
        words = self._words
        names = [(each.signal, each.name) for each in reads]
        if not words[MAGIC_WORD]:
            words[SIZE_WORD] = size
            write_table(
                table_in(self._head_page, 0), dict.fromkeys(names, FIRST_POSITION)
            )
            words[MAGIC_WORD] = MAGIC
        if words[MAGIC_WORD] != MAGIC:
            raise RingError("written by another version, or for another machine")
        active = words[TABLE_WORD] & 1
        marks = read_table(table_in(self._head_page, active))
        if words[SIZE_WORD] != size:
            raise RingError("damaged")
        if list(marks) != names:
            # An exporter that is new sends what waits for one that there is no more.
            gone = [mark for name, mark in marks.items() if name not in names]
            start = min(gone) if gone else max(marks.values(), default=FIRST_POSITION)
            write_table(
                table_in(self._head_page, 1 - active),
                {name: marks.get(name, start) for name in names},
            )
            words[TABLE_WORD] = active = 1 - active
        return table_in(self._head_page, active).cast("Q")

    def _recover(self) -> None:
        """Find the head, and count what waits for each exporter."""
        marks = [each.mark for each in self.cursors] or [FIRST_POSITION]
        position = min(marks)
        found: list[tuple[int, Header]] = []
        end = position + _LAP  # further than that only a damaged file leads
        while position < end and (header := self.header_at(position)):
            found.append((position, header))
            self._used[header.digest] = position
            position = self.next_position(position, header.length)
        self.head = max(position, *marks)
        if self.head > position:
            # It was empty, and its marks were being moved to a new lap.
            found = []
            for cursor in self.cursors:
                cursor.set_mark(self.head)
        for cursor in self.cursors:
            for position, header in found:
                if position >= cursor.mark:
                    cursor.note_committed(header)
                    if position < cursor.taken and header.signal == cursor.signal:
                        cursor.repeated += header.item_count
        self._recover_uncommitted()

    def _recover_uncommitted(self) -> None:
        """Commit the message that was received last, if that was all there was time for."""
        start = (self.head & _OFFSET) + _SLOT_BYTES
        *_, length, _, _ = HEADER.unpack_from(self._data, start)
        if HEADER.size <= length <= self._slack:
            with suppress(FrameError):
                self._accept(start, length)
                return
        self._clear_head()

    # Where things are.

    def header_at(self, position: int) -> Header | None:
        """Return the header of a committed message; None at the head."""
        offset = position & _OFFSET
        committed = self._slots[offset // WORD]
        if not HEADER.size <= committed <= self._slack:
            return None
        _, _, signal, _, digest, length, count, _ = HEADER.unpack_from(
            self._data, offset + _SLOT_BYTES
        )
        if length != committed:  # a file that was damaged
            return None
        return tuple.__new__(Header, (signal, count, digest, length))

    def body_at(self, position: int, header: Header) -> bytes:
        """Return a copy of what is behind the header of a message."""
        start = (position & _OFFSET) + _SLOT_BYTES
        return bytes(self._data[start + HEADER.size : start + header.length])

    def arrived(self, position: int) -> float:
        """Return the monotonic seconds at which a message came."""
        return self._times[(position & _OFFSET) // WORD + 1]

    def next_position(self, position: int, length: int) -> int:
        """Return the position behind a message."""
        offset = (position & _OFFSET) + _SLOT_BYTES + (length + WORD - 1 & -WORD)
        lap = position & ~_OFFSET
        return lap + _LAP if offset >= self._capacity else lap | offset

    def _oldest(self) -> int:
        return min((each.mark for each in self.cursors), default=self.head)

    def is_empty(self) -> bool:
        """Return whether nothing waits for any exporter."""
        return not any(each.queued for each in self.cursors)

    def pour(self, other: Ring, *, is_counted: bool) -> None:
        """Move what waits in another ring of this worker to this one (the reader).

        Args:
            other: The other ring.
            is_counted: Whether its items were counted as received when they came.
        """
        self.learn(other)
        position = other._oldest()
        while header := other.header_at(position):
            start = (position & _OFFSET) + _SLOT_BYTES
            message = bytes(other._data[start : start + header.length])
            self.append(message, is_counted=is_counted)
            position = other.next_position(position, header.length)
            with other.lock:
                for cursor in other.cursors:
                    cursor.free(position, 0)
        for cursor in other.cursors:
            cursor.queued = 0

    def learn(self, other: Ring) -> None:
        """Keep the resources that another ring knows; this process had sent them there."""
        for digest in other.resources.digests:
            data = other.resources.get(digest)
            if data is not None:
                self._keep_resource(digest, data)

    def note_alive(self) -> None:
        """Note the time: a ring in a file is taken from an owner that is long dead."""
        self._words[ALIVE_WORD] = time.time_ns()

    # What comes in: the reader's thread.

    def receive(self, source: _socket.socket, flags: int) -> Header | None:
        """Receive one datagram into the ring; return its header, None at the end.

        Args:
            source: The read end of the channel.
            flags: Of ``recv``.

        Raises:
            FrameError: The datagram is not one of ours; nothing is kept.
            OSError: As ``recv``.
        """
        start = self._make_room_at_head()
        length = source.recv_into(self._data[start : start + self._slack], 0, flags)
        if not length:
            return None
        try:
            return self._accept(start, length)
        except FrameError:
            self._clear_head()
            raise

    def append(self, message: bytes, *, is_counted: bool = False) -> Header:
        """Put a message into the ring that does not come from the channel.

        Args:
            message: The message.
            is_counted: Whether its items were counted as received before.

        Raises:
            FrameError: It is too long.
        """
        if len(message) > self._slack:
            raise FrameError("too long")
        start = self._make_room_at_head()
        self._data[start : start + len(message)] = message
        return self._accept(start, len(message), is_counted=is_counted)

    def _make_room_at_head(self) -> int:
        """Return where a message may be written, of any length."""
        self._make_room(self.head, _ZEROED_BYTES + self._slack)
        return (self.head & _OFFSET) + _SLOT_BYTES

    def _make_room(self, position: int, size: int) -> None:
        """Drop what lies in the way, which is of the lap before."""
        limit = position - _LAP + size
        if self._oldest_known >= limit:
            return
        self._oldest_known = self._oldest()
        if self._oldest_known < limit:
            with self.lock:
                for cursor in self.cursors:
                    while cursor.mark < limit:
                        cursor.drop()

    def _accept(self, begin: int, length: int, *, is_counted: bool = False) -> Header:
        """Commit the message that lies at the head, or keep the resource that it is."""
        header = read_header(self._data, begin, length)
        signal, _, digest, _ = header
        if signal == RESOURCE:
            body = self._data[begin + HEADER.size : begin + length]
            self._keep_resource(digest, bytes(body))
            self._clear_head()
            return header
        head = self.head
        offset = begin - _SLOT_BYTES
        following = self.next_position(head, length)
        self._make_room(following, _ZEROED_BYTES)
        start = following & _OFFSET
        self._data[start : start + _ZEROED_BYTES] = _NOTHING
        self._times[offset // WORD + 1] = time.monotonic()
        with self.lock:
            self._slots[offset // WORD] = length
            self.committed = self._used[digest] = head
            if not start:
                self._high = self._capacity
            self.head = following
            for cursor in self.cursors:
                count = cursor.note_committed(header)
                if count and not is_counted:
                    cursor.figures.add_received(count)
        return header

    def _clear_head(self) -> None:
        start = self.head & _OFFSET
        self._data[start : start + _ZEROED_BYTES] = _NOTHING

    # Resources.

    def _keep_resource(self, digest: bytes, data: bytes) -> None:
        """Keep a resource; others, or messages that need them, may have to go for it.

        Raises:
            FrameError: There is no room for it, even if all others go.
        """
        size = record_bytes(data)
        if size > self.resources.room:
            raise FrameError("a resource that is too large")
        if not self.resources.add(digest, data):
            with self.lock:
                self._forget_resources(self.resources.room - size)
            self.resources.add(digest, data)
            self._on_forgotten()
        self._used[digest] = self.head  # its messages are on their way

    def _forget_resources(self, room: int) -> None:
        """Keep the resources that were used last.

        Args:
            room: Bytes for those that waiting messages need; half of it for others.
        """
        oldest, last_gone = self._oldest(), 0
        kept: list[bytes] = []
        for digest in sorted(self.resources.digests, key=self._last_use, reverse=True):
            is_needed = oldest <= self._last_use(digest) < self.head
            size = self.resources.size_of(digest)
            if size <= (room if is_needed else room // 2):
                kept.append(digest)
                room -= size
            elif is_needed:
                last_gone = max(last_gone, self._last_use(digest))
        for cursor in self.cursors:
            while cursor.mark <= last_gone:
                cursor.drop()
        self.resources.keep_only(kept)
        self._used = {digest: self._last_use(digest) for digest in kept}

    def _last_use(self, digest: bytes) -> int:
        return self._used.get(digest, 0)

    # Memory that is not needed.

    def tidy(self) -> None:
        """Begin at the front again if it is empty, and give memory back.

        Called by the reader, between two receives.
        """
        with self.lock:
            oldest = self._oldest()
            if oldest == self.head:
                self._rewind()
                return
        before, lap = self._freed_from, oldest & ~_OFFSET
        if self.head & ~_OFFSET != lap:
            return
        if before & ~_OFFSET != lap:
            self._freed_from = lap
        elif oldest - before >= KEPT_BYTES:
            self._return(before & _OFFSET, oldest & _OFFSET)
            self._freed_from = oldest

    def _rewind(self) -> None:
        used = self.head & _OFFSET
        if not used:
            return
        self._data[:_ZEROED_BYTES] = _NOTHING
        self.head = (self.head & ~_OFFSET) + _LAP
        for cursor in self.cursors:
            cursor.set_mark(self.head)
        end = max(self._high, used) + self._slack
        if end > KEPT_BYTES + self._slack:
            self._return(KEPT_BYTES, end)
        self._freed_from, self._high = self.head, 0

    def _return(self, start: int, end: int) -> None:
        """Give the whole pages between two offsets back."""
        first = self._start + start + mmap.PAGESIZE - 1 & -mmap.PAGESIZE
        last = min(self._start + end, self._start + len(self._data)) & -mmap.PAGESIZE
        if last > first:
            self._give_back(first, last - first)
