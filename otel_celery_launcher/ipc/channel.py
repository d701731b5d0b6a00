# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The channel: one pair of connected sockets, made before the first fork.

Goal: a span that has ended is out of its process when ``send`` returns, so that no
SIGKILL of that process loses it, and a killed exporter process loses nothing unread.

``socketpair(AF_UNIX, SOCK_SEQPACKET)``: a message is whole or not there. The main process
keeps both ends, children inherit the write end, the exporter process gets the read end.
No name, so nobody else can connect, and nothing is left on disk. While the main process
holds the read end, unread messages of a killed exporter wait in the kernel for the next.

Two things can go wrong with an inherited number:

* Something closes it (Celery's ``close_open_fds`` in ``-B`` and ``--detach``, an
  application's own daemonizing) and the number is given to another file. Before each
  write the inode is compared with the one noted at the start (0.8 µs): a number that is
  no longer ours is neither written nor closed.
* ``setblocking`` would change the flag for all processes: the flag lies in the open file,
  not in the descriptor. So every send says ``MSG_DONTWAIT``.

The calls go to the plain ``_socket`` module and ``os``: gevent and eventlet patch
``socket``, and a patched send would switch tasks in the middle of a span's end.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_celery_launcher.signals import LOGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.signals import Signal

_KIND = socket.SOCK_DGRAM if sys.platform == "darwin" else socket.SOCK_SEQPACKET
_SEND_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)

# What may wait unread in the kernel. It doubles what it is asked for, but takes at most
# net.core.wmem_max (socket(7)): 212,992 on a stock kernel, where this gives room for 180
# to 330 messages, twice as many as without. A burst while the reader does something else
# has to fit.
SEND_BUFFER_BYTES = 256 * 1024

# The kernel is short of memory for a moment; the message may fit later.
_NO_ROOM = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EINTR})

# A message is at most this long (``datagrams.py`` and ``span_frames.py`` keep well below it).
RECEIVE_BYTES = 256 * 1024


class Channel:
    """The pair, as seen by one process of the worker.

    Args:
        write: The write end; a spawned child inherits it under the same number.
        inode: The write end's inode, noted when the pair was made.
        read: The read end, in the main process only.
    """

    def __init__(self, write: int, inode: int, read: int | None = None) -> None:
        self.write = write
        self.inode = inode
        self.read = read
        self._socket = _socket.socket(socket.AF_UNIX, _KIND, 0, write)

    @classmethod
    def make(cls) -> Channel:
        """Make the pair; runs in the launcher before the application is imported."""
        read, write = _socket.socketpair(socket.AF_UNIX, _KIND)
        write.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        descriptor = above_standard(write.detach())
        inode = os.fstat(descriptor).st_ino
        return cls(descriptor, inode, above_standard(read.detach()))

    def is_ours(self) -> bool:
        """Return whether the number still is the write end."""
        try:
            return os.fstat(self.write).st_ino == self.inode
        except OSError:
            return False

    def send(self, message: bytes, in_flight: memoryview | None = None) -> bool:
        """Hand a message over; False where it does not fit now.

        Args:
            message: The message.
            in_flight: A byte that is 0 from the moment on in which it is handed over: a
                process may be killed anywhere. As it was, where it does not fit.

        Raises:
            ChannelLostError: The descriptor is no longer ours, or nobody reads.
        """
        if not self.is_ours():
            raise ChannelLostError
        try:
            if in_flight is None:
                self._socket.send(message, _SEND_FLAGS)
            else:
                self._send_at_once(message, in_flight)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                return False
            raise ChannelLostError from exc
        return True

    def _send_at_once(self, message: bytes, in_flight: memoryview) -> None:
        before = in_flight[0]
        send = self._socket.send
        try:
            in_flight[0] = 0
            send(message, _SEND_FLAGS)  # nothing may come between these two lines
        except OSError:
            in_flight[0] = before
            raise

    def descriptors(self) -> list[int]:
        """Return the numbers that ``close_open_fds`` must leave open."""
        if not self.is_ours():
            return []
        return [self.write] if self.read is None else [self.write, self.read]

    def __del__(self) -> None:
        # Its end must not close a number that may belong to another file.
        if hasattr(self, "_socket"):
            self._socket.detach()

    def close(self) -> None:
        """Close both ends; the main process's last act."""
        for descriptor in self.descriptors():
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Channels:
    """The pairs of a worker.

    Log records have one of their own: with a single pair, a process that floods it makes
    19 of 20 spans of another find the kernel's buffer full.

    Attributes:
        main: For all but log records.
        logs: For log records; None where none leave.
    """

    main: Channel
    logs: Channel | None = None

    @classmethod
    def make(cls, *, has_logs: bool) -> Channels:
        """Make the pairs; runs in the launcher before the application is imported."""
        return cls(Channel.make(), Channel.make() if has_logs else None)

    def of(self, signal: Signal) -> Channel:
        """Return the one that a signal takes."""
        return self.logs if signal is LOGS and self.logs is not None else self.main

    def __iter__(self) -> Iterator[Channel]:
        """Yield them, the main one first."""
        yield self.main
        if self.logs is not None:
            yield self.logs

    def descriptors(self) -> list[int]:
        """Return the numbers that ``close_open_fds`` must leave open."""
        return [each for channel in self for each in channel.descriptors()]


def above_standard(descriptor: int) -> int:
    """Return the descriptor, under another number if it is 0, 1 or 2.

    A command started with a closed standard stream gives that number to the next file,
    and whoever prints writes into it.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


class ChannelLostError(Exception):
    """The channel is gone in this process; its spans are counted as dropped."""
