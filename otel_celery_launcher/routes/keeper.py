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

from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.datagrams import FrameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_memory import RingMemory
    from otel_celery_launcher.signals import Signal

# So many messages at once; the main process has other work, too.
MESSAGES_AT_ONCE = 2000


class RingKeeper:
    """Receives instead of an exporter process.

    Args:
        descriptor: Of the memory for the ring.
        size: Of it, in bytes.
        counters: The shared page.
        exporters: Signal and entry point name of each exporter.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        counters: Counters,
        exporters: Sequence[tuple[Signal, str]],
    ) -> None:
        self._descriptor = descriptor
        self._size = size
        self._counters = counters
        self._exporters = exporters
        self._memory: RingMemory | None = None
        self._ring: Ring | None = None

    def take(self, read: int) -> None:
        """Receive what is there.

        Args:
            read: The read end of the channel.
        """
        ring = self._ring or self._open()
        if ring is None:
            return
        self._counters.has_kept[0] = 1
        source = _socket.socket(fileno=os.dup(read))
        try:
            for _ in range(MESSAGES_AT_ONCE):
                with suppress(FrameError):
                    if ring.receive(source, _socket.MSG_DONTWAIT) is None:
                        return
        except OSError:  # nothing is there
            return
        finally:
            source.close()

    def release(self) -> None:
        """Leave the ring to the exporter process, which reads again."""
        memory, self._memory, self._ring = self._memory, None, None
        if memory is not None:
            memory.release()

    def _open(self) -> Ring | None:
        """Claim the ring; None while another process has it, or cannot be had."""
        from otel_celery_launcher.ipc.ring_cursor import Reads
        from otel_celery_launcher.ipc.ring_head import RingError
        from otel_celery_launcher.ipc.ring_memory import RingMemory

        row = self._counters.rows[EXPORTER_ROW]
        try:
            memory = RingMemory(self._descriptor, self._size)
            if not memory.claim():
                return None
            reads = [
                Reads(signal.number, name, row.of(signal))
                for signal, name in self._exporters
            ]
            ring = memory.ring(reads, self._counters.begin_resource_epoch)
        except (OSError, RingError):  # no memory; the exporter process will say more
            return None
        self._memory, self._ring = memory, ring
        return ring
