# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spool directory: rings in files, which outlive the worker and its container.

Each exporter process has one file, which it opens, locks and maps; no other process
does. A file without an owner belonged to a worker that is gone: the next exporter
process that finds it locks it, sends what is in it, and removes it. The lock is
``fcntl.lockf``: the kernel releases it when the process ends, and no child inherits it.

The space of a file is reserved when it is made (``posix_fallocate``), so that a full
disk is an error then, and not a SIGBUS later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from otel_celery_launcher.ipc.ring_head import RingError
from otel_celery_launcher.ipc.ring_memory import RingMemory
from otel_celery_launcher.settings.checks import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_cursor import Reads

SUFFIX = ".ring"

# A file that is being made; without an owner it was never finished.
_UNFINISHED = ".new"

# How long a ring must have been without a sign of life before somebody else sends it:
# the successor of a killed exporter process comes within a second.
ORPHANED_SECONDS = 5.0

# How often, and with which pause in seconds, a worker asks for its own file.
OWN_ATTEMPTS, OWN_PAUSE = 10, 0.1

# Smaller files hold too few messages of the largest size.
SPOOL_BYTES_AT_LEAST = 4 * 1024 * 1024


class SpoolError(Exception):
    """The directory, or a file in it, cannot be used; the text says why."""


class RingFile:
    """A ring in a file that this process has locked.

    Args:
        path: Of the file.
        memory: Its content.
        inode: Of the file.
    """

    def __init__(self, path: Path, memory: RingMemory, inode: int) -> None:
        self.path = path
        self.memory = memory
        self.inode = inode
        self.ring: Ring | None = None

    def remove(self) -> None:
        """Remove the file: all that was in it is sent."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


class Spool:
    """A spool directory.

    Args:
        directory: Its path; it is made if it is not there.
        size: Bytes of a file.
        name: Of this worker's own file, without its suffix.
    """

    def __init__(self, directory: str, size: int, name: str) -> None:
        self.directory = Path(directory)
        self._size = max(size, SPOOL_BYTES_AT_LEAST)
        self._own = self.directory / f"{safe_name(name)}{SUFFIX}"
        self._locked: set[int] = set()  # inodes
        self._left_alone: set[str] = set()

    def open_own(self) -> RingFile:
        """Return this worker's file, as a predecessor has left it, or a new one.

        Raises:
            SpoolError: The directory cannot be used, or there is no room.
        """
        check_directory(self.directory)
        try:
            return self._find_own() or self._make()
        except OSError as exc:
            raise SpoolError(f"{shown(self.directory)}: {exc.strerror or exc}") from exc

    def _find_own(self) -> RingFile | None:
        """Return what a predecessor has left; None if there is nothing.

        Somebody may look at the file just now, or have adopted it.
        """
        for _ in range(OWN_ATTEMPTS):
            found = self._open(self._own)
            if found is not None or not self._own.exists():
                return found
            time.sleep(OWN_PAUSE)
        self._own = self._own.with_stem(f"{self._own.stem}-{os.getpid()}")
        return None

    def orphans(self) -> Iterator[RingFile]:
        """Yield files whose owner is gone, locked."""
        with contextlib.suppress(OSError):
            for path in sorted(self.directory.iterdir()):
                if path.suffix == SUFFIX and path != self._own:
                    with contextlib.suppress(OSError):
                        found = self._open(path)
                        if found is not None:
                            yield found
                elif path.suffix == _UNFINISHED:
                    self._remove_unfinished(path)

    def leave_alone(self, file: RingFile) -> None:
        """Never open a file again: another version has written it."""
        self._left_alone.add(file.path.name)
        self.forget(file)

    def forget(self, file: RingFile) -> None:
        """Unlock and close a file: all that was in it is sent, or it is left to others."""
        self._locked.discard(file.inode)
        file.memory.close()

    def _open(self, path: Path) -> RingFile | None:
        """Open and lock a file; None if it is not there, or not ours to take."""
        if path.name in self._left_alone or path.is_symlink() or not path.exists():
            return None
        # Closing a second descriptor of a file would release the lock of the first.
        if path.stat().st_ino in self._locked:
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            _check_file(path, status)
            memory = RingMemory(descriptor, status.st_size, gives_back=False)
        except (OSError, SpoolError, ValueError):
            os.close(descriptor)
            return None
        is_free = self._is_orphan(path, memory) and memory.claim()
        # Its owner may have come back before the lock was ours.
        is_free = is_free and self._is_orphan(path, memory)
        if not is_free or not os.fstat(descriptor).st_nlink:
            memory.close()
            return None
        self._locked.add(status.st_ino)
        return RingFile(path, memory, status.st_ino)

    def _is_orphan(self, path: Path, memory: RingMemory) -> bool:
        return path == self._own or memory.seconds_since_alive() > ORPHANED_SECONDS

    def _make(self) -> RingFile:
        unfinished = self._own.with_suffix(_UNFINISHED)
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
        descriptor = os.open(
            unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, self._size)
            else:  # macOS
                os.ftruncate(descriptor, self._size)
            memory = RingMemory(descriptor, self._size, gives_back=False)
            unfinished.rename(self._own)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        inode = os.fstat(descriptor).st_ino
        self._locked.add(inode)
        return RingFile(self._own, memory, inode)

    @staticmethod
    def _remove_unfinished(path: Path) -> None:
        """Remove what a process has left that was killed while it made a file."""
        if not is_in_use(path):
            with contextlib.suppress(OSError):
                path.unlink()


def shown(path: Path) -> str:
    """Return a path as a text may have it."""
    return printable(str(path))


def safe_name(name: str) -> str:
    """Return a text as part of a file name."""
    # What makes it unique is at its end.
    return re.sub(r"[^\w.-]+", "-", name)[-150:].lstrip(".") or "worker"


def check_directory(directory: Path) -> None:
    """Make the directory if it is not there, and check that it is private.

    Raises:
        SpoolError: It is no directory, or others may write into it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise SpoolError(f"{shown(directory)}: {exc.strerror or exc}") from exc
    check_private(directory)


def check_private(directory: Path) -> None:
    """Check that nobody but its owner, this user or root, can write into a directory.

    Raises:
        SpoolError: Somebody can, or it is no directory.
    """
    try:
        status = directory.stat()
    except OSError as exc:
        raise SpoolError(f"{shown(directory)}: {exc.strerror or exc}") from exc
    if not stat.S_ISDIR(status.st_mode):
        raise SpoolError(f"{shown(directory)}: not a directory")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise SpoolError(
            f"{shown(directory)} has mode {mode:04o}: expected one that only its owner can"
            " write (chmod go-w, or name a directory below it, which is then made)"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise SpoolError(f"{shown(directory)} belongs to user {status.st_uid}")


class Found(NamedTuple):
    """A file of a spool directory, as another program sees it.

    Attributes:
        path: Of the file.
        is_in_use: Whether a process has it.
        waiting: How many items wait in it, by exporter.
        problem: Why it cannot be read; empty if it can.
    """

    path: Path
    is_in_use: bool
    waiting: dict[str, int]
    problem: str


def found_in(directory: Path) -> Iterator[Found]:
    """Yield the files of a spool directory; asked by other programs."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        problem, waiting = "", {}
        try:
            waiting = survey(path)
        except (OSError, RingError) as exc:
            problem = str(exc)
        yield Found(path, is_in_use(path), waiting, problem)


def waiting_in(directory: Path) -> int:
    """Return how many items wait in files without an owner; asked by other programs."""
    return sum(
        sum(each.waiting.values()) for each in found_in(directory) if not each.is_in_use
    )


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise SpoolError(f"{path}: not a file of this user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SpoolError(f"{path}: others can write it")
    if status.st_size == 0:
        raise SpoolError(f"{path}: empty")


def ring_in(file: RingFile, reads: Sequence[Reads]) -> Ring | None:
    """Return the ring in a file; None if another version has written it."""
    try:
        file.ring = file.memory.ring(reads)
    except (RingError, IndexError, ValueError, struct.error):  # or damaged
        return None
    return file.ring


def own_ring_in(file: RingFile, reads: Sequence[Reads]) -> Ring:
    """Return the ring in this worker's own file.

    Raises:
        SpoolError: It is damaged.
    """
    ring = ring_in(file, reads)
    if ring is None:
        raise SpoolError(f"{shown(file.path)}: not a spool file of this version")
    return ring


def is_in_use(path: Path) -> bool:
    """Return whether a process has locked a file; asked by other programs only.

    A process that has locked the file itself would lose its lock here.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def survey(path: Path) -> dict[str, int]:
    """Return how many items wait in a file, by exporter; the file stays as it is.

    Raises:
        OSError: It cannot be read.
        RingError: Another version's, or damaged.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise RingError("empty")
        return RingMemory.survey(descriptor, size)
    finally:
        os.close(descriptor)
