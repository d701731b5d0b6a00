# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the exporter process does with a spool directory: its own file, and the orphans.

Its own file is its queue. Files of workers that are gone are sent first, and removed.
Runs in the reader's thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.exporter_process.pipeline import Source
from otel_celery_launcher.exporter_process.spool import (
    Spool,
    SpoolError,
    own_ring_in,
    ring_in,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.exporter_process.pipeline import Pipeline
    from otel_celery_launcher.exporter_process.spool import RingFile
    from otel_celery_launcher.ipc.counter_rows import Row
    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_cursor import Reads

# How often it looks for files without an owner.
LOOK_SECONDS = 10.0


class Spooler:
    """Keeps the queue in a file, and sends what others have left.

    Args:
        config: ``directory``, ``size`` and ``name``: ``supervisor.SpoolConfig``.
        row: The exporter process's row of the counters.
        reads: The exporters that read a ring.
    """

    def __init__(
        self,
        config: dict[str, Any],
        row: Row,
        reads: Sequence[Reads],
    ) -> None:
        self._spool = Spool(config["directory"], config["size"], config["name"])
        self._row = row
        self._reads = reads
        self._own: RingFile | None = None
        self._adopted: list[RingFile] = []
        self._looked = -LOOK_SECONDS

    def own_ring(self, in_memory: Ring) -> Ring:
        """Return the ring of this worker's file; the one in memory if there can be none."""
        self._row.note_spools(False)
        try:
            file = self._spool.open_own()
            ring = own_ring_in(file, self._reads)
        except SpoolError as exc:
            self._row.note_notice(
                f"the spool directory cannot be used: {exc}. Spans wait in memory"
            )
            return in_memory
        ring.pour(in_memory, is_counted=True)
        self._own = file
        self._row.note_spools(True)
        return ring

    def look(self, pipelines: Sequence[Pipeline]) -> None:
        """Adopt what has no owner, and remove what is sent; called twice a second."""
        if self._own is not None and self._own.ring is not None:
            self._own.ring.note_alive()
        for file in list(self._adopted):
            if file.ring and all(each.is_done_with(file.ring) for each in pipelines):
                self._adopted.remove(file)
                file.remove()
                self._spool.forget(file)
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            # One at a time, so that nothing else waits for long.
            orphan = next(self._spool.orphans(), None)
            if orphan is None:
                self._looked = time.monotonic()
            else:
                self._adopt(orphan, pipelines)

    def end(self, pipelines: Sequence[Pipeline]) -> None:
        """Remove this process's files as far as all in them is sent."""
        self.look(pipelines)
        own = self._own
        if own is not None and own.ring is not None and own.ring.is_empty():
            own.remove()
            self._row.note_spools(bool(self._adopted))

    def _adopt(self, file: RingFile, pipelines: Sequence[Pipeline]) -> None:
        ring = ring_in(file, self._reads)
        if ring is None:
            self._spool.leave_alone(file)
            self._row.note_notice(
                f"{shown(file.path)} is left alone: another version has written it. Send it with"
                " that version: otel-celery spool --send DIRECTORY"
            )
            return
        self._adopted.append(file)
        adopt(ring, pipelines)


def adopt(ring: Ring, pipelines: Sequence[Pipeline]) -> None:
    """Let the pipelines send what is in a ring that another worker has left.

    Args:
        ring: The ring.
        pipelines: One for each exporter of the ring.
    """
    cursors = {(each.signal, each.name): each for each in ring.cursors}
    for pipeline in pipelines:
        cursor = cursors[pipeline.key]
        if cursor.queued:
            pipeline.adopt(Source(ring, cursor))
