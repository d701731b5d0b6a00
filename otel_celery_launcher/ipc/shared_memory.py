# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Memory without a name that several processes map, by an inherited descriptor."""

from __future__ import annotations

import fcntl
import os
import tempfile

from otel_celery_launcher.ipc.channel import above_standard


def new_memory(name: str, size: int) -> int:
    """Return a descriptor of zeroed memory; its pages are allocated when they are used.

    Args:
        name: For ``/proc/<pid>/maps``.
        size: In bytes.

    Raises:
        OSError: No descriptor or no memory is left, or the size is over RLIMIT_FSIZE.
    """
    if hasattr(os, "memfd_create"):
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        descriptor = os.memfd_create(name, flags)
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    descriptor = above_standard(descriptor)
    try:
        os.ftruncate(descriptor, size)
        # Without seals, shrinking the mapped file would kill all processes by SIGBUS.
        if hasattr(fcntl, "F_ADD_SEALS"):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class SharedMemory:
    """A descriptor that may be closed, and its number reused, by other code.

    Args:
        descriptor: Of ``new_memory``, in the process that made it or in one that
            inherited it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino

    def descriptors(self) -> list[int]:
        """Return the descriptor, as a list; empty if it is no longer ours."""
        try:
            is_ours = os.fstat(self.descriptor).st_ino == self._inode
        except OSError:
            return []
        return [self.descriptor] if is_ours else []
