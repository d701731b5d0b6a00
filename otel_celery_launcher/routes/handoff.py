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
from otel_celery_launcher.errors import MALFORMED_ERRORS, guarded
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW, MAIN_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import Envelope
from otel_celery_launcher.ipc.span_decoder import ended_span
from otel_celery_launcher.ipc.span_frames import (
    SPAN_BYTES,
    encode_span,
    encode_unobserved,
)
from otel_celery_launcher.routes.lane import LOOK_SECONDS, Lane
from otel_celery_launcher.routes.route import Outgoing
from otel_celery_launcher.signals import LOGS, METRICS, TRACES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.ipc.channel import Channels
    from otel_celery_launcher.ipc.span_frames import Unobserved
    from otel_celery_launcher.routes.delivery_log import DeliveryLog
    from otel_celery_launcher.routes.inline_metrics import InlineMetrics
    from otel_celery_launcher.routes.supervisor import Supervisor
    from otel_celery_launcher.signals import Signal

# How long a flush waits before it asks again.
ASK_AGAIN_SECONDS = 1.0

# A timer that called within this time is taken to be running; it calls twice a second.
POLLED_SECONDS = 2.0

# How often a thread looks where no timer does.
WATCH_SECONDS = 0.5


# A signal that hands no items over: ``metrics/page.py`` has it.
_NO_ITEMS = Outgoing(
    signal=METRICS,
    encode=lambda _: b"",
    make_queue=lambda _: None,
    put=lambda *_: None,
)


class HandoffRoute:
    """Hands items to the exporter process, in any process of a worker, or of a program that forks.

    Args:
        outgoing: The signals.
        channels: The pairs made by the launcher: for log records, and for all else.
        counters: The shared page of the worker.
        delivery_log: Writes the log lines, in the main process.
        supervisor: Starts and watches the exporter process; None in a spawned child.
        metrics: Exports metrics from this process; None where the exporter process does,
            or there are none.
        are_metrics_taken: Whether a collector has taken any; None if the exporter
            process exports none.
        may_start: Whether this process may start the exporter process at its first
            item; where not, ``main_started`` does (privileges, detaching).
        has_timer: Whether ``poll`` will be called. If not, handing an item over also checks the
            exporter process.
    """

    child_share = 0.4  # of the time a stop may take

    def __init__(
        self,
        outgoing: Sequence[Outgoing],
        channels: Channels,
        counters: Counters,
        delivery_log: DeliveryLog,
        supervisor: Supervisor | None,
        *,
        metrics: InlineMetrics | None = None,
        are_metrics_taken: Callable[[], bool] | None = None,
        may_start: bool = False,
        has_timer: bool = True,
    ) -> None:
        self._metrics = metrics
        self._are_metrics_taken = are_metrics_taken
        self._delivery_log = delivery_log
        self._counters = counters
        self._supervisor = supervisor
        self._has_timer = has_timer
        self._may_start = may_start
        self._polled = 0.0
        self._timer_called = 0.0  # in this process
        self._has_watcher = False
        self._row = counters.rows[MAIN_ROW]
        lanes = {
            each.signal.number: Lane(each, channels.of(each.signal), counters)
            for each in outgoing
        }
        self._lanes = lanes
        self._traces = lanes.get(TRACES.number)
        self._logs = lanes.get(LOGS.number)
        # To ask for a flush of metrics: they are no messages.
        self._flushed = dict(lanes)
        if are_metrics_taken is not None:
            self._flushed[METRICS.number] = Lane(_NO_ITEMS, channels.main, counters)
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
        in_flight: memoryview | None = None,
    ) -> None:
        """Hand an item over: ``Route.hand_over``."""
        self._check_process()
        lane = self._lanes.get(signal.number)
        if lane is None:  # it goes nowhere
            return
        try:
            envelope, data = lane.envelope(resource), lane.encode(item)
        except MALFORMED_ERRORS:
            lane.figures.add_dropped(1)
            return
        self._hand_over(
            lane,
            envelope,
            data,
            ends_work=ends_work,
            ends_task=ends_task,
            in_flight=in_flight,
        )

    def hand_over_ended(
        self,
        span: Unobserved,
        *,
        ends_work: bool,
        ends_task: bool,
        in_flight: memoryview | None,
    ) -> None:
        """Hand over a span that ends as it began: ``Route.hand_over_ended``."""
        self._check_process()
        lane = self._traces
        if lane is None:
            return
        data = encode_unobserved(span)
        if len(data) > SPAN_BYTES:  # an application's names may have any length
            data = encode_span(ended_span(span))
        self._hand_over(
            lane,
            lane.envelope(span.origin.template.resource),
            data,
            ends_work=ends_work,
            ends_task=ends_task,
            in_flight=in_flight,
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
        in_flight: memoryview | None,
    ) -> None:
        is_deferred = not ends_task and contexts.has_other_threads()
        is_deferred = is_deferred and not (ends_work and not self._is_polled())
        if (
            is_deferred
            or lane.backlog.items
            or not lane.send(envelope, [data], in_flight)
        ):
            lane.enqueue(envelope, data)
            if (ends_work and not is_deferred) or lane.is_group_due():
                ending = None if in_flight is None else (data, in_flight)
                lane.send_backlog(ends_task=ends_task, ending=ending)
            elif lane is self._logs:  # nothing may follow for long
                lane.figures.note_queued(len(lane.backlog))
        if ends_task and self._logs is not None and self._logs.backlog.items:
            self._logs.send_backlog(ends_task=False)

    def _is_polled(self) -> bool:
        """Return whether a timer sends what waits, twice a second (main process)."""
        return time.monotonic() - self._timer_called < POLLED_SECONDS

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._row.add_left_out(name)

    def begin_metrics(self) -> None:
        """Start the exporter process, which exports them, where no main process does."""
        if self._supervisor is not None and self._may_start and not self._has_timer:
            self._supervisor.start_once()

    def flush(self, seconds: float, signals: Sequence[Signal] | None = None) -> bool:
        """Wait until the exporter process has sent what was handed over so far."""
        end = time.monotonic() + seconds
        if not self._drain(seconds):
            return False
        token = time.monotonic_ns()
        numbers = None if signals is None else {each.number for each in signals}
        asked = dict.fromkeys(self._flushed, -ASK_AGAIN_SECONDS)
        while waiting := [
            (number, lane)
            for number, lane in self._flushed.items()
            if lane.figures.flushed < token and (numbers is None or number in numbers)
        ]:
            now = time.monotonic()
            if now >= end or all(self._is_hopeless(number) for number, _ in waiting):
                return False
            for number, lane in waiting:
                if now - asked[number] >= ASK_AGAIN_SECONDS and self._ask(lane, token):
                    asked[number] = now
            time.sleep(LOOK_SECONDS)
        return True

    def _is_hopeless(self, number: int) -> bool:
        """Return whether there is nothing to wait for: no collector was ever reached."""
        if number == LOGS.number and self._counters.rows[EXPORTER_ROW].logs_fail:
            return True
        is_metric = number == METRICS.number
        if (
            is_metric
            and self._are_metrics_taken is not None
            and self._are_metrics_taken()
        ):
            return False
        return self._counters.is_hopeless

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

    def tell_of_broker(self, text: str) -> None:
        """Give the exporter process what it needs to ask for queues: a secret."""
        if self._supervisor is not None:
            self._supervisor.about_broker = text

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
        if self._metrics is not None:
            self._metrics.main_started(forks=True)

    def watch_by_thread(self) -> None:
        """Watch the exporter process while no timer calls ``poll`` (main process).

        The thread is none of ``threading``'s, so that spans are sent as if there were
        none (``contexts.has_other_threads``).
        """
        if self._supervisor is not None and not self._has_watcher:
            self._has_watcher = True
            _thread.start_new_thread(self._watch, (self._supervisor,))

    def _watch(self, supervisor: Supervisor) -> None:
        with guarded("the exporter process is not replaced if it ends"):
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
        for lane in self._flushed.values():
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
        if self._metrics is not None:
            self._metrics.poll()
        self._delivery_log.poll()

    def close(self, seconds: float) -> bool:
        """Hand over what is left; in the main process, until all of it is sent."""
        if self._pid != os.getpid():
            self._forget_parent()
        if self._metrics is not None:
            self._metrics.close(seconds)
        supervisor = self._supervisor
        if supervisor is None or not supervisor.is_owner():
            is_done = self._drain(seconds)
        elif supervisor.was_started:
            supervisor.hurry()
            is_done = self.flush(seconds)
            supervisor.stop()
        else:
            supervisor.give_up()
            is_done = not supervisor.failure
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
