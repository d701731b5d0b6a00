# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The backlog: frames of a process that did not fit into the kernel's buffer.

Runs in the thread that hands an item over; several threads may do so at once.
"""

from __future__ import annotations

from collections import deque

from otel_celery_launcher.ipc.datagrams import MAX_COUNT, MESSAGE_BYTES, Envelope

# Some 30,000 spans: what a tight loop makes while the exporter process waits for a core.
BACKLOG_BYTES = 16 * 1024 * 1024

# The envelope of an item's resource, and its frame.
Item = tuple[Envelope, bytes]


class Backlog:
    """A queue of frames, bounded by bytes.

    Args:
        limit: The bound.

    Attributes:
        bytes: Of the frames that wait.
        items: These frames; only for a look.
    """

    def __init__(self, limit: int = BACKLOG_BYTES) -> None:
        self._limit = limit
        self.items: deque[Item] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.items)

    def add(self, envelope: Envelope, data: bytes) -> int:
        """Keep a frame; return how many older ones had to go for it."""
        self.items.append((envelope, data))
        self.bytes += len(data)
        dropped = 0
        while self.bytes > self._limit and len(self.items) > 1:
            self.bytes -= len(self.items.popleft()[1])
            dropped += 1
        return dropped

    def take(self) -> list[Item]:
        """Take frames of one resource, oldest first, as many as fit a message.

        Other threads may take frames, too, so a frame is inspected after it is taken.
        """
        group: list[Item] = []
        size = 0
        while len(group) < MAX_COUNT and size < MESSAGE_BYTES:
            try:
                item = self.items.popleft()
            except IndexError:
                self.bytes = 0
                return group
            if group and (
                item[0].digest != group[0][0].digest
                or size + len(item[1]) > MESSAGE_BYTES
            ):
                self.items.appendleft(item)
                break
            group.append(item)
            size += len(item[1])
        self.bytes -= size
        return group

    def put_back(self, group: list[Item]) -> None:
        """Keep what was taken and could not be sent."""
        self.items.extendleft(reversed(group))
        self.bytes += sum(len(data) for _, data in group)

    def clear(self) -> None:
        """Forget all of it."""
        self.items.clear()
        self.bytes = 0
