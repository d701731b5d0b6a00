# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Takes over what the supervisor has received (``routes/keeper.py``).

Runs in the reader's thread of the exporter process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.exporter_process.spooler import adopt
from otel_celery_launcher.ipc.ring_head import RingError
from otel_celery_launcher.ipc.ring_memory import RingMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.exporter_process.pipeline import Pipeline
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_cursor import Reads


class KeptRing:
    """The supervisor's ring, as the exporter process sees it.

    Args:
        descriptor: Of its memory; None if there is none.
        size: Of it, in bytes.
        counters: The shared page.
        reads: Returns the exporters that read a ring.
    """

    def __init__(
        self,
        descriptor: int | None,
        size: int,
        counters: Counters,
        reads: Callable[[], Sequence[Reads]],
    ) -> None:
        self._memory = None if descriptor is None else RingMemory(descriptor, size)
        self._counters = counters
        self._reads = reads
        self._ring: Ring | None = None

    def look(self, own: Ring, pipelines: Sequence[Pipeline]) -> None:
        """Take over what is there, or give back what is sent; called before each read.

        Args:
            own: The ring of this process, which learns the resources.
            pipelines: One for each exporter.
        """
        memory, ring = self._memory, self._ring
        if memory is None or not self._counters.has_kept[0]:
            return
        if ring is None:
            if memory.claim():
                self._take_over(memory, own, pipelines)
        elif all(each.is_done_with(ring) for each in pipelines):
            ring.tidy()
            self._ring = None
            self._counters.has_kept[0] = 0
            memory.release()

    def _take_over(
        self, memory: RingMemory, own: Ring, pipelines: Sequence[Pipeline]
    ) -> None:
        try:
            ring = self._ring = memory.ring(self._reads())
        except RingError:  # of a process that was killed before it was made
            self._counters.has_kept[0] = 0
            memory.release()
            return
        own.learn(ring)
        adopt(ring, pipelines)
