# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Takes over what the supervisor has received (``routes/keeper.py``).

Runs in the reader's thread of the exporter process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_head import RingError
from otel_celery_launcher.ipc.ring_memory import RingMemory, Uncounted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.ring import Ring


class KeptRing:
    """The supervisor's ring, as the exporter process sees it.

    Args:
        number: Of the queue.
        descriptor: Of its memory; None if there is none.
        size: Of it, in bytes.
        counters: The shared page.
        exporters: Number of the signal and name of each exporter.
    """

    def __init__(
        self,
        number: int,
        descriptor: int | None,
        size: int,
        counters: Counters,
        exporters: Sequence[tuple[int, str]],
    ) -> None:
        self._number = number
        self._memory = None if descriptor is None else RingMemory(descriptor, size)
        self._counters = counters
        self._exporters = exporters

    def is_taken_over(self, own: Ring) -> bool:
        """Move what is there to this process's own ring.

        Returns:
            False while the supervisor has not let go of it.
        """
        memory = self._memory
        if memory is None or not self._counters.has_kept[self._number]:
            return True
        if not memory.claim():
            return False
        try:
            reads = [Reads(*each, Uncounted()) for each in self._exporters]
            ring = memory.ring(reads)
            own.pour(ring, is_counted=False)
            ring.tidy()
        except RingError:  # of a process that was killed before it was made
            pass
        self._counters.has_kept[self._number] = 0
        memory.release()
        return True
