# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""One signal's way to the exporter process, as one process sees it.

Items that do not fit into the kernel's buffer wait in a backlog. Runs in the thread that
completes an item. Nothing here catches ``Exception``: soft time limits are raised at any
bytecode.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc.channel import Channel, ChannelLostError
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW, MAIN_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import MESSAGE_BYTES, Envelope, flush_message
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.routes.backlog import Backlog

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.routes.route import Outgoing

# How long the end of a task may wait for room in the kernel's buffer while the exporter
# process is reading; that process sleeps at most half as long.
TASK_END_SECONDS = 0.1

# After this time without the exporter process's heartbeat, no task waits for it.
READER_SECONDS = 2.0

# Pause after a failed attempt, which costs as much as a successful one: a full message.
TRY_AGAIN_SECONDS = 0.02

# A send releases the interpreter lock. If other threads run, a busy one then keeps it
# for 5 ms (sys.getswitchinterval). So in this case the spans inside a task are sent in
# groups: with the task's own span, or after this time.
GROUP_SECONDS = 0.05

# How long a wait sleeps between two looks.
LOOK_SECONDS = 0.002

# The frame of a run that ends, and the state of its record.
Ending = tuple[bytes, memoryview]


class Lane:
    """One signal's way to the exporter process, as this process sees it.

    Args:
        outgoing: The signal.
        channel: The pair of sockets.
        counters: The shared page.
    """

    def __init__(
        self, outgoing: Outgoing, channel: Channel, counters: Counters
    ) -> None:
        self.signal = outgoing.signal
        self.encode = outgoing.encode
        self._channel = channel
        self._counters = counters
        self._backlog_bytes = outgoing.backlog_bytes
        self._is_waited_for = outgoing.is_waited_for
        self.backlog = Backlog(self._backlog_bytes)
        self._envelopes: dict[int, tuple[Resource, Envelope]] = {}
        self._epoch = counters.resource_epoch
        self._sent = 0.0  # when a group went out; monotonic seconds
        self._tried = 0.0  # when the backlog did not fit; monotonic seconds
        self._has_waited_in_vain = False
        self.use_row(MAIN_ROW)

    def use_row(self, row: int) -> None:
        """Count into a row of this process's own."""
        self.row = row
        self.figures = self._counters.rows[row].of(self.signal)

    def forget_parent(self) -> None:
        """Discard the copy of the parent's backlog; the parent's timer sends it."""
        self.backlog = Backlog(self._backlog_bytes)

    def envelope(self, resource: Resource) -> Envelope:
        """Return what messages of a resource have in common."""
        known = self._envelopes.get(id(resource))
        if known is not None and known[0] is resource:
            return known[1]
        envelope = Envelope(self.signal.number, encode_resource(resource))
        self._envelopes[id(resource)] = (resource, envelope)
        return envelope

    def send(
        self,
        envelope: Envelope,
        frames: list[bytes],
        in_flight: memoryview | None = None,
    ) -> bool:
        """Send frames of one resource; return False if they must be tried again.

        If the channel is lost, the items are counted as dropped, and it returns True.

        Args:
            envelope: Of the resource.
            frames: The items.
            in_flight: The state of the record of a run whose span is sent.
        """
        try:
            if envelope.epoch != self._epoch[0] and not self._make_known(envelope):
                return False
            return self._channel.send(envelope.message(frames), in_flight)
        except ChannelLostError:
            self.figures.add_dropped(len(frames))
            return True

    def _make_known(self, envelope: Envelope) -> bool:
        """Send the resource of an envelope; return False if it must be tried again."""
        epoch = self._epoch[0]
        if not self._channel.send(envelope.resource_message()):
            return False
        envelope.epoch = epoch
        return True

    def ask_for_flush(self, token: int) -> bool:
        """Ask the exporter process to report when it has sent all before."""
        try:
            message = flush_message(self.signal.number, self.row, token)
            return self._channel.send(message)
        except ChannelLostError:
            return True

    def enqueue(self, envelope: Envelope, data: bytes) -> None:
        """Keep a frame; an older one may have to go for it."""
        dropped = self.backlog.add(envelope, data)
        if dropped:
            self.figures.add_dropped(dropped)

    def send_backlog(self, *, ends_task: bool, ending: Ending | None = None) -> None:
        """Send the backlog; wait for room only if the exporter process is reading.

        An item that stays in the backlog is lost if this process is killed. But no task
        waits for an exporter process that does not read, and none waits twice for one
        that does not read fast enough.
        """
        may_block = (
            ends_task
            and self._is_waited_for
            and not self._has_waited_in_vain
            and self._is_read()
        )
        if may_block or time.monotonic() >= self._tried + TRY_AGAIN_SECONDS:
            is_empty = self.drain(TASK_END_SECONDS if may_block else 0, ending)
            self._tried = 0.0 if is_empty else time.monotonic()
            self._has_waited_in_vain = not is_empty and (
                may_block or self._has_waited_in_vain
            )
        self.figures.note_queued(len(self.backlog))

    def drain(self, seconds: float, ending: Ending | None = None) -> bool:
        """Send the backlog, oldest first; return whether it is empty."""
        end = time.monotonic() + seconds
        while group := self.backlog.take():
            frames = [data for _, data in group]
            in_flight = None
            if ending is not None and any(each is ending[0] for each in frames):
                in_flight = ending[1]
            if not self.send(group[0][0], frames, in_flight):
                self.backlog.put_back(group)
                if time.monotonic() >= end:
                    return False
                time.sleep(LOOK_SECONDS)
        return True

    def is_group_due(self) -> bool:
        """Return whether items inside a task are to go now, together."""
        now = time.monotonic()
        if self.backlog.bytes < MESSAGE_BYTES and now - self._sent < GROUP_SECONDS:
            return False
        self._sent = now
        return True

    def _is_read(self) -> bool:
        heartbeat = self._counters.rows[EXPORTER_ROW].heartbeat
        return time.monotonic() - heartbeat < READER_SECONDS
