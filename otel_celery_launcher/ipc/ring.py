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
from typing import TYPE_CHECKING, NamedTuple, Protocol

from otel_celery_launcher.ipc.channel import RECEIVE_BYTES
from otel_celery_launcher.ipc.datagrams import (
    HEADER,
    RESOURCE,
    VERSION,
    FrameError,
    Header,
    digest_of,
    read_header,
)
from otel_celery_launcher.ipc.ring_resources import RingResources, record_bytes

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

# Read as a number, so that another byte order is another version.
_MAGIC = int.from_bytes(b"otelrg\x01\x00", "little") + (VERSION << 56)

_WORD = 8
_HEAD_BYTES = 4096
_MAGIC_WORD, _SIZE_WORD, _ACTIVE_WORD, _TABLE_WORD, _ALIVE_WORD = range(5)

# Two tables of cursors, of which one is valid: how many, then mark and taken of each,
# then their names.
CURSORS = 8
_TABLE_STARTS, _TABLE_BYTES = (1024, 2048), 1024
_CURSOR_WORDS = 2
_NAMES_START, _NAME_BYTES = 256, 64

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
KEPT_BYTES = 1024 * 1024


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


class Taken(NamedTuple):
    """A message that a cursor has taken, copied out of the ring."""

    header: Header
    body: bytes


class RingError(Exception):
    """The memory holds no ring that this version can read."""


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
        start = 1 + index * _CURSOR_WORDS
        self._words = table[start : start + _CURSOR_WORDS]
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

    def note_committed(self, header: Header) -> None:
        """Count a message behind those that are there (with the ring's lock)."""
        if header.signal != self.signal:
            return
        self.queued += header.item_count
        self.waiting += header.item_count
        self.waiting_bytes += header.length
        if not header.item_count:
            self.flushes += 1

    def note_received(self, header: Header) -> None:
        """Count the items of a new message (with the ring's lock)."""
        if header.signal == self.signal and header.item_count:
            self.figures.add_received(header.item_count)

    def arrived(self) -> float:
        """Return the monotonic seconds at which the first waiting message came."""
        return self._ring.arrived(self.position)

    def take(self, items: int, size: int) -> list[Taken]:
        """Copy messages out, up to a number of items or bytes (with the lock).

        They stay in the ring until ``free``.
        """
        ring, taken = self._ring, []
        position = self.position
        while items > 0 and size > 0 and (header := ring.header_at(position)):
            if header.signal == self.signal:
                items -= header.item_count
                size -= header.length
                self._note_taken(header)
                taken.append(Taken(header, ring.body_at(position, header)))
            position = ring.next_position(position, header.length)
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
        self.waiting -= header.item_count
        self.waiting_bytes -= header.length
        if not header.item_count:
            self.flushes -= 1


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
        self._start = _HEAD_BYTES + 2 * half
        self._slack = slack
        self._capacity = (len(whole) - self._start - slack - _ZEROED_BYTES) & -_WORD
        if half == 0 or self._capacity < slack + 2 * _ZEROED_BYTES:
            raise RingError(f"too small: {len(whole)} bytes")
        self.lock = threading.Lock()
        self._on_forgotten = on_forgotten
        self._give_back = give_back
        self._head_page = whole[:_HEAD_BYTES]
        self._words = self._head_page.cast("Q")
        self._data = whole[self._start :]
        slots = self._data[: len(self._data) & -_WORD]
        self._slots, self._times = slots.cast("Q"), slots.cast("d")
        table = self._prepare(len(whole), reads)
        self.resources = RingResources(
            (
                whole[_HEAD_BYTES : _HEAD_BYTES + half],
                whole[_HEAD_BYTES + half : self._start],
            ),
            self._words[_ACTIVE_WORD : _ACTIVE_WORD + 1],
            lambda number: give_back(_HEAD_BYTES + number * half, half),
        )
        self._oldest_known = 0  # no mark is before it, since marks only increase
        self.committed = 0  # position of the last message that this process committed
        self._used: dict[
            bytes, int
        ] = {}  # digest: position of the last message with it
        self.cursors = [
            Cursor(self, table, index, each) for index, each in enumerate(reads)
        ]
        self._recover()
        # What was used of the memory, as far as it is known here.
        self._freed_from = self._oldest()
        self._high = self._capacity

    # How it is found.

    def _prepare(self, size: int, reads: Sequence[Reads]) -> memoryview:
        """Write the head page of a new ring; return the table of its cursors."""
        words = self._words
        names = [(each.signal, each.name) for each in reads]
        if not words[_MAGIC_WORD]:
            words[_SIZE_WORD] = size
            self._write_table(0, dict.fromkeys(names, FIRST_POSITION))
            words[_MAGIC_WORD] = _MAGIC
        if words[_MAGIC_WORD] != _MAGIC:
            raise RingError("written by another version, or for another machine")
        active = words[_TABLE_WORD] & 1
        marks = _read_table(self._table(active))
        if words[_SIZE_WORD] != size:
            raise RingError("damaged")
        if list(marks) != names:
            # An exporter that is new sends what waits for one that there is no more.
            gone = [mark for name, mark in marks.items() if name not in names]
            start = min(gone) if gone else max(marks.values(), default=FIRST_POSITION)
            self._write_table(
                1 - active, {name: marks.get(name, start) for name in names}
            )
            words[_TABLE_WORD] = active = 1 - active
        return self._table(active).cast("Q")

    def _table(self, number: int) -> memoryview:
        return _table_in(self._head_page, number)

    def _write_table(self, number: int, marks: dict[tuple[int, str], int]) -> None:
        table = self._table(number)
        words = table.cast("Q")
        words[0] = len(marks)
        for index, ((signal, name), mark) in enumerate(marks.items()):
            words[1 + index * _CURSOR_WORDS] = words[2 + index * _CURSOR_WORDS] = mark
            text = f"{signal}:{name}".encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
            start = _NAMES_START + index * _NAME_BYTES
            table[start : start + _NAME_BYTES] = text

    def _recover(self) -> None:
        """Find the head, and count what waits for each exporter."""
        marks = [each.mark for each in self.cursors] or [FIRST_POSITION]
        position = min(marks)
        found: list[tuple[int, Header]] = []
        while header := self.header_at(position):
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
                self._accept(self._data[start : start + length])
                return
        self._clear_head()

    # Where things are.

    def header_at(self, position: int) -> Header | None:
        """Return the header of a committed message; None at the head."""
        offset = position & _OFFSET
        length = self._slots[offset // _WORD]
        if not HEADER.size <= length <= self._slack:
            return None
        _, _, signal, _, digest, length, count, _ = HEADER.unpack_from(
            self._data, offset + _SLOT_BYTES
        )
        return Header(signal, count, digest, length)

    def body_at(self, position: int, header: Header) -> bytes:
        """Return a copy of what is behind the header of a message."""
        start = (position & _OFFSET) + _SLOT_BYTES
        return bytes(self._data[start + HEADER.size : start + header.length])

    def arrived(self, position: int) -> float:
        """Return the monotonic seconds at which a message came."""
        return self._times[(position & _OFFSET) // _WORD + 1]

    def next_position(self, position: int, length: int) -> int:
        """Return the position behind a message."""
        offset = (position & _OFFSET) + _SLOT_BYTES + (length + _WORD - 1 & -_WORD)
        lap = position & ~_OFFSET
        return lap + _LAP if offset >= self._capacity else lap | offset

    def _oldest(self) -> int:
        return min((each.mark for each in self.cursors), default=self.head)

    def is_empty(self) -> bool:
        """Return whether nothing waits for any exporter."""
        return not any(each.queued for each in self.cursors)

    def learn(self, other: Ring) -> None:
        """Keep the resources that another ring knows; this process had sent them there."""
        for digest in other.resources.digests:
            data = other.resources.get(digest)
            if data is not None:
                self._keep_resource(data)

    def note_alive(self) -> None:
        """Note the time: a ring in a file is taken from an owner that is long dead."""
        self._words[_ALIVE_WORD] = time.time_ns()

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
            return self._accept(self._data[start : start + length])
        except FrameError:
            self._clear_head()
            raise

    def append(self, message: bytes) -> Header:
        """Put a message of this process's own into the ring.

        Raises:
            FrameError: It is too long.
        """
        if len(message) > self._slack:
            raise FrameError("too long")
        start = self._make_room_at_head()
        self._data[start : start + len(message)] = message
        return self._accept(self._data[start : start + len(message)])

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

    def _accept(self, memory: memoryview) -> Header:
        """Commit the message that lies at the head, or keep the resource that it is."""
        header = read_header(memory)
        if header.signal == RESOURCE:
            self._keep_resource(bytes(memory[HEADER.size :]))
            self._clear_head()
            return header
        offset = self.head & _OFFSET
        following = self.next_position(self.head, header.length)
        self._make_room(following, _ZEROED_BYTES)
        start = following & _OFFSET
        self._data[start : start + _ZEROED_BYTES] = _NOTHING
        self._times[offset // _WORD + 1] = time.monotonic()
        with self.lock:
            self._slots[offset // _WORD] = header.length
            self.committed = self.head
            self._used[header.digest] = self.head
            if not start:
                self._high = self._capacity
            self.head = following
            for cursor in self.cursors:
                cursor.note_committed(header)
                cursor.note_received(header)
        return header

    def _clear_head(self) -> None:
        start = self.head & _OFFSET
        self._data[start : start + _ZEROED_BYTES] = _NOTHING

    # Resources.

    def _keep_resource(self, data: bytes) -> None:
        """Keep a resource; others, or messages that need them, may have to go for it.

        Raises:
            FrameError: There is no room for it, even if all others go.
        """
        size = record_bytes(data)
        if size > self.resources.room:
            raise FrameError("a resource that is too large")
        if not self.resources.add(data):
            with self.lock:
                self._forget_resources(self.resources.room - size)
            self.resources.add(data)
            self._on_forgotten()
        self._used[digest_of(data)] = self.head  # its messages are on their way

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


def _table_in(head_page: memoryview, number: int) -> memoryview:
    start = _TABLE_STARTS[number]
    return head_page[start : start + _TABLE_BYTES]


def _read_table(table: memoryview) -> dict[tuple[int, str], int]:
    """Return the mark of each exporter, by its signal and name.

    Raises:
        RingError: Damaged.
    """
    words = table.cast("Q")
    if words[0] > CURSORS:
        raise RingError("damaged")
    marks = {}
    for index in range(words[0]):
        start = _NAMES_START + index * _NAME_BYTES
        text = bytes(table[start : start + _NAME_BYTES]).rstrip(b"\0").decode()
        signal, _, name = text.partition(":")
        marks[int(signal), name] = words[1 + index * _CURSOR_WORDS]
    return marks


def names_in(memory: mmap.mmap) -> list[tuple[int, str]]:
    """Return the exporters of a ring: number of the signal, and name.

    Raises:
        RingError: Another version's, or damaged.
    """
    if len(memory) < _HEAD_BYTES:
        raise RingError("too small")
    page = memoryview(memory)[:_HEAD_BYTES]
    words = page.cast("Q")
    if words[_MAGIC_WORD] != _MAGIC:
        raise RingError("written by another version, or for another machine")
    try:
        return list(_read_table(_table_in(page, words[_TABLE_WORD] & 1)))
    except ValueError as exc:
        raise RingError("damaged") from exc


def seconds_since_alive(memory: mmap.mmap) -> float:
    """Return how long ago the owner of a ring was alive; endless if that is not known."""
    start = _ALIVE_WORD * _WORD
    (alive,) = memoryview(memory)[start : start + _WORD].cast("Q")
    seconds = (time.time_ns() - alive) / 1e9
    return seconds if seconds >= 0 else float("inf")
