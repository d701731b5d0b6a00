# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Hand-off: each item goes to the exporter process when it is complete.

There is no thread, no lock held over a fork, and no gRPC. Items that do not fit into
the kernel's buffer go to a bounded backlog of this process. It is emptied at the end of
the task, with the next items, by the main process's timer, by a pool child that has no
task, and at the end of the process.

Runs in the thread that ends a span, in every process of a worker, or of a program that
forks. Nothing here catches ``Exception``: soft time limits are raised at any bytecode.
"""

from __future__ import annotations

import _thread
import os
import time
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.ipc.channel import Channel, ChannelLostError
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW, MAIN_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import MESSAGE_BYTES, Envelope, flush_message
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.span_frames import encode_run_end
from otel_celery_launcher.routes.backlog import Backlog
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.routes.delivery_log import DeliveryLog
    from otel_celery_launcher.routes.route import Outgoing
    from otel_celery_launcher.routes.supervisor import Supervisor
    from otel_celery_launcher.signals import Signal

# How long the end of a task may wait for room in the kernel's buffer while the exporter
# process is reading; that process sleeps at most half as long.
TASK_END_SECONDS = 0.1

# After this time without the exporter process's heartbeat, no task waits for it.
READER_SECONDS = 2.0

# Pause after a failed attempt, which costs as much as a successful one: a full message.
TRY_AGAIN_SECONDS = 0.02

# How long a flush waits before it asks again.
ASK_AGAIN_SECONDS = 1.0

# A send releases the interpreter lock. If other threads run, a busy one then keeps it
# for 5 ms (sys.getswitchinterval). So in this case the spans inside a task are sent in
# groups: with the task's own span, or after this time.
GROUP_SECONDS = 0.05

# A timer that called within this time is taken to be running; it calls twice a second.
POLLED_SECONDS = 2.0

# How often a thread looks where no timer does.
WATCH_SECONDS = 0.5

# How long a wait sleeps between two looks.
_LOOK_SECONDS = 0.002


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
        self.backlog = Backlog()
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
        self.backlog = Backlog()

    def envelope(self, resource: Resource) -> Envelope:
        """Return what messages of a resource have in common."""
        known = self._envelopes.get(id(resource))
        if known is not None and known[0] is resource:
            return known[1]
        envelope = Envelope(self.signal.number, encode_resource(resource))
        self._envelopes[id(resource)] = (resource, envelope)
        return envelope

    def send(self, envelope: Envelope, frames: list[bytes]) -> bool:
        """Send frames of one resource; return False if they must be tried again.

        If the channel is lost, the items are counted as dropped, and it returns True.
        """
        try:
            if envelope.epoch != self._epoch[0] and not self._make_known(envelope):
                return False
            return self._channel.send(envelope.message(frames))
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

    def send_backlog(self, *, ends_task: bool) -> None:
        """Send the backlog; wait for room only if the exporter process is reading.

        An item that stays in the backlog is lost if this process is killed. But no task
        waits for an exporter process that does not read, and none waits twice for one
        that does not read fast enough.
        """
        may_block = ends_task and not self._has_waited_in_vain and self._is_read()
        if may_block or time.monotonic() >= self._tried + TRY_AGAIN_SECONDS:
            is_empty = self.drain(TASK_END_SECONDS if may_block else 0)
            self._tried = 0.0 if is_empty else time.monotonic()
            self._has_waited_in_vain = not is_empty and (
                may_block or self._has_waited_in_vain
            )
        self.figures.note_queued(len(self.backlog))

    def drain(self, seconds: float) -> bool:
        """Send the backlog, oldest first; return whether it is empty."""
        end = time.monotonic() + seconds
        while group := self.backlog.take():
            frames = [data for _, data in group]
            if not self.send(group[0][0], frames):
                self.backlog.put_back(group)
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOOK_SECONDS)
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


class HandoffRoute:
    """Hands items to the exporter process, in any process of a worker, or of a program that forks.

    Args:
        outgoing: The signals.
        channel: The pair made by the launcher.
        counters: The shared page of the worker.
        delivery_log: Writes the log lines, in the main process.
        supervisor: Starts and watches the exporter process; None in a spawned child.
        may_start: Whether this process may start the exporter process at its first
            item; where not, ``main_started`` does (privileges, detaching).
        has_timer: Whether ``poll`` will be called. If not, handing an item over also checks the
            exporter process.
    """

    child_share = 0.4  # of the time a stop may take

    def __init__(
        self,
        outgoing: Sequence[Outgoing],
        channel: Channel,
        counters: Counters,
        delivery_log: DeliveryLog,
        supervisor: Supervisor | None,
        *,
        may_start: bool = False,
        has_timer: bool = True,
    ) -> None:
        self._delivery_log = delivery_log
        self._counters = counters
        self._supervisor = supervisor
        self._has_timer = has_timer
        self._may_start = may_start
        self._polled = 0.0
        self._timer_called = 0.0  # in this process
        self._has_watcher = False
        self._row = counters.rows[MAIN_ROW]
        self._lanes = {
            each.signal.number: Lane(each, channel, counters) for each in outgoing
        }
        self._traces = self._lanes[TRACES.number]
        self._pid = os.getpid()

    # What is handed over, in the thread that completes it.

    def hand_over(
        self,
        signal: Signal,
        item: Any,
        resource: Resource,
        *,
        ends_work: bool,
        ends_task: bool,
    ) -> None:
        """Hand an item over: ``Route.hand_over``."""
        self._check_process()
        lane = self._lanes[signal.number]
        try:
            envelope, data = lane.envelope(resource), lane.encode(item)
        except MALFORMED_ERRORS:
            lane.figures.add_dropped(1)
            return
        self._hand_over(lane, envelope, data, ends_work=ends_work, ends_task=ends_task)

    def hand_over_run(
        self, resource: Resource, start: bytes, ended: int, changes: dict[str, str]
    ) -> None:
        """Hand over the span of a run that ends as it began: ``HandOverRun``."""
        self._check_process()
        data = encode_run_end(start, ended, changes)
        lane = self._traces
        self._hand_over(
            lane, lane.envelope(resource), data, ends_work=True, ends_task=True
        )

    def _check_process(self) -> None:
        """Detect a fork, and supervise the exporter process where no timer does."""
        if self._pid != os.getpid():
            self._forget_parent()
        if self._supervisor is not None and not self._has_timer:
            self._supervise(self._supervisor)

    def _hand_over(
        self,
        lane: Lane,
        envelope: Envelope,
        data: bytes,
        *,
        ends_work: bool,
        ends_task: bool,
    ) -> None:
        is_deferred = not ends_task and contexts.has_other_threads()
        is_deferred = is_deferred and not (ends_work and not self._is_polled())
        if is_deferred or lane.backlog or not lane.send(envelope, [data]):
            lane.enqueue(envelope, data)
            if (ends_work and not is_deferred) or lane.is_group_due():
                lane.send_backlog(ends_task=ends_task)

    def _is_polled(self) -> bool:
        """Return whether a timer sends what waits, twice a second (main process)."""
        return time.monotonic() - self._timer_called < POLLED_SECONDS

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._row.add_left_out(name)

    def flush(self, seconds: float) -> bool:
        """Wait until the exporter process has sent what was handed over so far."""
        end = time.monotonic() + seconds
        if not self._drain(seconds):
            return False
        token = time.monotonic_ns()
        asked = dict.fromkeys(self._lanes, -ASK_AGAIN_SECONDS)
        while waiting := [
            (number, lane)
            for number, lane in self._lanes.items()
            if lane.figures.flushed < token
        ]:
            now = time.monotonic()
            if now >= end or self._counters.is_hopeless:
                return False
            for number, lane in waiting:
                if now - asked[number] >= ASK_AGAIN_SECONDS and self._ask(lane, token):
                    asked[number] = now
            time.sleep(_LOOK_SECONDS)
        return True

    def _drain(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        is_empty = True
        for lane in self._lanes.values():
            is_empty = lane.drain(end - time.monotonic()) and is_empty
        return is_empty

    def _ask(self, lane: Lane, token: int) -> bool:
        """Ask for a flush; a killed exporter process loses the request."""
        if self._supervisor is not None:
            self._supervisor.watch()
        return lane.ask_for_flush(token)

    def _supervise(self, supervisor: Supervisor) -> None:
        """Watch the exporter process where there is no timer; once a second."""
        now = time.monotonic()
        if self._may_start and now - self._polled >= 1.0:
            self._polled = now
            supervisor.start_once()
            supervisor.adopt()
            self.poll()

    @property
    def failure(self) -> str:
        """Why no exporter process could be started; empty if one was, or not yet."""
        return "" if self._supervisor is None else self._supervisor.failure

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""
        return 0 if self._supervisor is None else self._supervisor.restarts

    def descriptors(self) -> list[int]:
        """Return the descriptor of the queue, which code that closes all must spare."""
        return [] if self._supervisor is None else self._supervisor.descriptors()

    # The life of a process: launch/lifecycle.py and telemetry/setup.py.

    def main_started(self, *, forks: bool) -> None:
        """Start the exporter process; called before the first fork."""
        del forks
        self._pid = os.getpid()  # a detached beat is the one that stays
        self._may_start = True
        if self._supervisor is not None:
            self._supervisor.claim()
            self._supervisor.start_once()

    def watch_by_thread(self) -> None:
        """Watch the exporter process while no timer calls ``poll`` (main process).

        The thread is none of ``threading``'s, so that spans are sent as if there were
        none (``contexts.has_other_threads``).
        """
        if self._supervisor is not None and not self._has_watcher:
            self._has_watcher = True
            _thread.start_new_thread(self._watch, (self._supervisor,))

    def _watch(self, supervisor: Supervisor) -> None:
        while supervisor.is_owner() and not supervisor.is_stopped:
            time.sleep(WATCH_SECONDS)
            if not self._is_polled():
                supervisor.watch()

    def main_is_ending(self) -> None:
        """Keep an exporter process alive for all that is left (main process)."""
        self._timer_called = 0.0
        if self._supervisor is not None:
            self._supervisor.hurry()
        self.watch_by_thread()

    def child_started(self, row: int) -> None:
        """Count into a row of this process's own."""
        if self._pid != os.getpid():
            self._forget_parent()
        self._row = self._counters.rows[row]
        for lane in self._lanes.values():
            lane.use_row(row)
            lane.figures.drop_queued()

    def child_is_idle(self) -> bool:
        """Send the backlog, as no task's end will; return whether frames are left."""
        is_left = False
        for lane in self._lanes.values():
            if lane.backlog:
                lane.send_backlog(ends_task=False)
            is_left = is_left or bool(lane.backlog)
        return is_left

    def poll(self) -> None:
        """Empty the backlog and watch the exporter process; the main process's timer."""
        self._timer_called = time.monotonic() if self._has_timer else 0.0
        for lane in self._lanes.values():
            lane.send_backlog(ends_task=False)
        if self._supervisor is not None:
            self._supervisor.watch()
        self._delivery_log.poll()

    def close(self, seconds: float) -> bool:
        """Hand over what is left; in the main process, until all of it is sent."""
        if self._pid != os.getpid():
            self._forget_parent()
        supervisor = self._supervisor
        if supervisor is None or not supervisor.is_owner():
            is_done = self._drain(seconds)
        elif supervisor.was_started:
            supervisor.hurry()
            is_done = self.flush(seconds)
            supervisor.stop()
        else:
            is_done = True
        for lane in self._lanes.values():
            lane.figures.note_queued(len(lane.backlog))
            lane.figures.drop_queued()
            lane.backlog.clear()
        return is_done

    def _forget_parent(self) -> None:
        for lane in self._lanes.values():
            lane.forget_parent()
        self._timer_called = 0.0
        self._pid = os.getpid()
