# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Receives messages while no exporter process reads: it is dead, or it is stopped.

Otherwise a hundred messages fill the kernel's buffer, and the rest would wait in the
processes that made them. What is received lies in a ring of its own, which the exporter
process takes over when it reads again. Runs in the process that supervises.
"""

from __future__ import annotations

import _socket
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.counter_rows import MAIN_ROW
from otel_celery_launcher.ipc.datagrams import FrameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_memory import RingMemory
    from otel_celery_launcher.signals import Signal

# So many messages at once; the main process has other work, too.
MESSAGES_AT_ONCE = 2000


# Sees whether a message is there, and leaves it there.
_LOOK = _socket.MSG_DONTWAIT | _socket.MSG_PEEK


class _Dropped:
    """Counts what is dropped here; the exporter process counts what it takes over.

    Args:
        counters: The shared page.
        signal: Whose items these are.
    """

    def __init__(self, counters: Counters, signal: Signal) -> None:
        self._figures = counters.rows[MAIN_ROW].of(signal)

    def add_received(self, count: int) -> None:
        """Count nothing."""

    def add_dropped(self, count: int) -> None:
        """Count items for which the ring had no room."""
        self._figures.add_dropped(count)


class RingKeeper:
    """Receives instead of an exporter process.

    Args:
        number: Of the queue.
        descriptor: Of the memory for the ring.
        size: Of it, in bytes.
        counters: The shared page.
        exporters: Signal and entry point name of each exporter.
    """

    def __init__(
        self,
        number: int,
        descriptor: int,
        size: int,
        counters: Counters,
        exporters: Sequence[tuple[Signal, str]],
    ) -> None:
        self._number = number
        self._descriptor = descriptor
        self._size = size
        self._counters = counters
        self._exporters = exporters
        # Made once: to close a mapping releases the locks of this process on its file.
        self._memory: RingMemory | None = None
        self._ring: Ring | None = None
        self._pid = os.getpid()

    def take(self, read: int) -> None:
        """Receive what is there.

        Args:
            read: The read end of the channel.
        """
        if self._pid != os.getpid():  # a fork took over; it has not the lock
            self._pid, self._ring = os.getpid(), None
        try:
            source = _socket.socket(fileno=os.dup(read))
        except OSError:  # no descriptor is left
            return
        try:
            source.recv(1, _LOOK)
            self._take(source)
        except OSError:  # nothing is there
            return
        finally:
            source.close()

    def _take(self, source: _socket.socket) -> None:
        ring = self._ring or self._open()
        if ring is None:
            return
        self._counters.has_kept[self._number] = 1
        for _ in range(MESSAGES_AT_ONCE):
            with suppress(FrameError):
                if ring.receive(source, _socket.MSG_DONTWAIT) is None:
                    return

    def release(self) -> None:
        """Leave the ring to the exporter process, which reads again."""
        if self._memory is not None and self._ring is not None:
            self._ring = None
            self._memory.release()

    def drop(self) -> None:
        """Count what no exporter process has taken over (the end of the worker)."""
        ring = self._ring or self._open()
        if ring is None:
            return
        for cursor in ring.cursors:
            cursor.figures.add_dropped(cursor.queued)
        self._counters.has_kept[self._number] = 0

    def _open(self) -> Ring | None:
        """Claim the ring; None while another process has it, or it cannot be had."""
        from otel_celery_launcher.ipc.ring_cursor import Reads
        from otel_celery_launcher.ipc.ring_head import RingError
        from otel_celery_launcher.ipc.ring_memory import RingMemory

        try:
            memory = self._memory or RingMemory(self._descriptor, self._size)
            self._memory = memory
            if not memory.claim():
                return None
            reads = [
                Reads(signal.number, name, _Dropped(self._counters, signal))
                for signal, name in self._exporters
            ]
            self._ring = memory.ring(reads)
        except (OSError, RingError):  # no memory; the exporter process will say more
            return None
        return self._ring
