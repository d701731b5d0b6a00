# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of a ring, as one process maps it, and the right to write it.

The right is a lock on the memory's descriptor (``fcntl.lockf``). The kernel releases it
when the process ends, however it ends, and no child inherits it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import mmap
import os
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.ring import Ring
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_head import names_in, seconds_since_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class RingMemory:
    """The mapped memory.

    Args:
        descriptor: Of memory that others map, too; None for this process's own, which
            ends with it.
        size: In bytes.
        gives_back: Whether memory that is not needed is freed; in a file, its space is
            reserved.

    Raises:
        OSError: It cannot be mapped.
    """

    def __init__(
        self, descriptor: int | None, size: int, *, gives_back: bool = True
    ) -> None:
        self._descriptor = descriptor
        self._gives_back = gives_back and descriptor is not None
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, size)

    @property
    def is_shared(self) -> bool:
        """Whether the content outlives this process."""
        return self._descriptor is not None

    def claim(self) -> bool:
        """Try to become the process that writes; return whether it is."""
        if self._descriptor is None:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Leave the memory to another process; this one reads and writes no more."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # closed by other code
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the memory and close its descriptor; no ring of it is used any more."""
        self.release()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def seconds_since_alive(self) -> float:
        """Return how long ago the last owner was alive; endless if that is not known."""
        return seconds_since_alive(self._memory)

    @staticmethod
    def survey(descriptor: int, size: int) -> dict[str, int]:
        """Return how many items wait in a ring, by exporter, and change nothing.

        Raises:
            OSError: It cannot be mapped.
            RingError: Another version's, or damaged.
        """
        copy = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
        reads = [Reads(signal, name, Uncounted()) for signal, name in names_in(copy)]
        ring = Ring(copy, reads)
        found = {each.name: each.queued for each in ring.cursors}
        del ring, copy
        # The two refer to each other. To close the mapping later would release a lock
        # that this process may have taken on the file meanwhile.
        gc.collect()
        return found

    def ring(
        self,
        reads: Sequence[Reads],
        on_forgotten: Callable[[], object] = lambda: None,
    ) -> Ring:
        """Return the ring in it; called by the process that writes.

        Args:
            reads: The exporters that read it.
            on_forgotten: As of ``Ring``.

        Raises:
            RingError: Another version's, or damaged.
        """
        return Ring(
            self._memory,
            reads,
            on_forgotten=on_forgotten,
            give_back=self._give_back,
        )

    def _give_back(self, start: int, length: int) -> None:
        remove = getattr(mmap, "MADV_REMOVE", None)  # Linux
        if remove is not None and self._gives_back:
            with contextlib.suppress(OSError):  # not on every file system
                self._memory.madvise(remove, start, length)


class Uncounted:
    """Figures of a ring whose items are counted elsewhere, or not at all."""

    def add_received(self, count: int) -> None:
        """Count nothing."""

    def add_dropped(self, count: int) -> None:
        """Count nothing."""
