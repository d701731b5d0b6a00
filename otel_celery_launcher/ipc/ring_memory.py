# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of a ring, as one process maps it, and the right to write it.

The right is a lock on the memory's descriptor (``fcntl.lockf``). The kernel releases it
when the process ends, however it ends, and no child inherits it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.ipc.ring import Reads


class RingMemory:
    """The mapped memory.

    Args:
        descriptor: Of memory that others map, too; None for this process's own, which
            ends with it.
        size: In bytes.

    Raises:
        OSError: It cannot be mapped.
    """

    def __init__(self, descriptor: int | None, size: int) -> None:
        self._descriptor = descriptor
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
        if remove is not None and self._descriptor is not None:
            with contextlib.suppress(OSError):  # not on every file system
                self._memory.madvise(remove, start, length)
