# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A queue of the exporter process, as the main process sees it.

Its channel, the memory in which it lies, which outlives each exporter process, and the
memory for what is received while none reads. Log records have a queue of their own: a
flood of them fills neither the buffer nor the memory of the spans.

Runs in the process that supervises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from otel_celery_launcher.ipc.memory_limit import kept_bytes
from otel_celery_launcher.ipc.shared_memory import SharedMemory, new_memory
from otel_celery_launcher.routes.keeper import RingKeeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.ipc.channel import Channel
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.signals import Signal


class ExportedSignal(NamedTuple):
    """A signal that the exporter process exports.

    Attributes:
        signal: Its row.
        exporters: Entry point names of its exporters.
        redacts_exceptions: Whether messages of exceptions stay here.
    """

    signal: Signal
    exporters: tuple[str, ...]
    redacts_exceptions: bool = False

    def config(self) -> dict[str, Any]:
        """Return it as the exporter process reads it."""
        return {**self._asdict(), "signal": self.signal._asdict()}


class SharedQueue:
    """A queue.

    Args:
        number: Of the queue, from 0.
        channel: Its read end goes to the exporter process.
        signals: Whose items it has, and how they are exported.
        counters: The shared page.
        size: The bound of the queue, in bytes.
    """

    def __init__(
        self,
        number: int,
        channel: Channel,
        signals: Sequence[ExportedSignal],
        counters: Counters,
        size: int,
    ) -> None:
        self._number = number
        self.channel = channel
        self.signals = tuple(signals)
        self._counters = counters
        self._memory_bytes, self._kept_bytes = size, kept_bytes(size)
        self._memory = _make_memory("otel-celery-queue", self._memory_bytes)
        self._kept = _make_memory("otel-celery-kept", self._kept_bytes)
        self._keeper: RingKeeper | None = None

    @property
    def can_be_read(self) -> bool:
        """Whether its channel is still ours."""
        return self.channel.read is not None and self.channel.is_ours()

    @property
    def outlives_its_reader(self) -> bool:
        """Whether a successor of the exporter process finds what it had."""
        return _is_there(self._memory)

    def descriptors(self) -> list[int]:
        """Return the numbers of its memory that are still ours."""
        memories = (self._memory, self._kept)
        return [fd for memory in memories if memory for fd in memory.descriptors()]

    def config(self) -> dict[str, Any]:
        """Return it as ``exporter_process/intake.py`` reads it."""
        return {
            "number": self._number,
            "read": self.channel.read,
            "ring": self._memory.descriptor if _is_there(self._memory) else None,
            "ring_bytes": self._memory_bytes,
            "kept": self._kept.descriptor if _is_there(self._kept) else None,
            "kept_bytes": self._kept_bytes,
            "signals": [each.config() for each in self.signals],
        }

    def keep(self) -> None:
        """Receive instead of an exporter process."""
        read, memory = self.channel.read, self._kept
        if read is None or not self.channel.is_ours() or not _is_there(memory):
            return
        if self._keeper is None:
            self._keeper = RingKeeper(
                self._number,
                memory.descriptor,
                self._kept_bytes,
                self._counters,
                [
                    (each.signal, name)
                    for each in self.signals
                    for name in each.exporters
                ],
            )
        self._keeper.take(read)

    def release(self) -> None:
        """Leave what is kept to the exporter process."""
        if self._keeper is not None:
            self._keeper.release()

    def drop_what_is_kept(self) -> None:
        """Count what is kept as lost: no exporter process will come any more."""
        if self._keeper is not None and self._counters.has_kept[self._number]:
            self._keeper.drop()


def _make_memory(name: str, size: int) -> SharedMemory | None:
    """Return memory for a queue; without it, each exporter process has its own."""
    try:
        return SharedMemory(new_memory(name, size))
    except OSError:  # no descriptor is left, or over RLIMIT_FSIZE
        return None


def _is_there(memory: SharedMemory | None) -> TypeGuard[SharedMemory]:
    """Return whether there is such memory, and its descriptor is still ours."""
    return memory is not None and bool(memory.descriptors())
