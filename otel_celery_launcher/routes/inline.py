# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Inline export: the process that runs the code has the SDK's queue and exporter in it.

One ``InlineRoute`` is made by the launcher and inherited by every process of the worker.
In each process it does one of three things with an item:

exporting   put it into the SDK's queues of this process
holding     keep it, because this process still forks (the main process of a prefork
            pool) or is not yet the process that stays (before a detach); held items
            leave through a short-lived forked sender, or when the process ends
closed      count it as dropped

A process forked from a holding one exports for itself from its first item on. A process
forked from an exporting one inherits a gRPC library in an unknown state, in which a new
channel may hang (https://github.com/grpc/grpc/issues/31885). Its items are dropped and
counted, and its tasks are not affected.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.delivery.export_log import ExportLogHandler, error_text
from otel_celery_launcher.delivery.health import MainHealth, SecondHealth
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW, MAIN_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.span_decoder import ended_span
from otel_celery_launcher.routes.counting_exporter import (
    CountingExporter,
    is_exporting,
    note_error,
)
from otel_celery_launcher.routes.held_sender import HeldSender
from otel_celery_launcher.signals import LOGS, METRICS, TRACES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.delivery.health import Health
    from otel_celery_launcher.ipc.span_frames import Unobserved
    from otel_celery_launcher.routes.delivery_log import DeliveryLog
    from otel_celery_launcher.routes.inline_metrics import InlineMetrics
    from otel_celery_launcher.routes.route import Exporter, Outgoing
    from otel_celery_launcher.signals import Signal

# Items a holding process keeps: as many as the SDK's own queue by default.
HELD_ITEMS = 2048

# How long a process that Celery did not announce may send at its end.
UNANNOUNCED_SECONDS = 2.0

# A collector that came up meanwhile answers a process's first attempt in this time.
FIRST_ATTEMPT_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineSignal:
    """A signal that is exported here.

    Attributes:
        outgoing: The signal, and the SDK's queue of it.
        exporters: Make the exporters, after the fork.
        pending_limit: Items that a queue can have on their way: in it, and in one batch.
            The SDK drops further ones without saying so.
    """

    outgoing: Outgoing
    exporters: Sequence[Callable[[], Exporter]]
    pending_limit: int


class InlineLane:
    """One signal in this process: what is held, and what is in the SDK's queues.

    Args:
        inline: The signal.
        counters: The shared page.
        delivery_log: Writes the log lines, in the main process.
    """

    def __init__(
        self, inline: InlineSignal, counters: Counters, delivery_log: DeliveryLog
    ) -> None:
        self._inline = inline
        self._counters = counters
        self._delivery_log = delivery_log
        self._put = inline.outgoing.put
        self._prepare = inline.outgoing.prepare
        self.use_row(MAIN_ROW)
        self.forget_parent()

    def use_row(self, row: int) -> None:
        """Count into a row of this process's own."""
        self._row = self._counters.rows[row]
        self._figures = self._row.of(self._inline.outgoing.signal)

    def forget_parent(self) -> None:
        """Leave to the parent what it held or was sending."""
        self.held: deque[Any] = deque(maxlen=HELD_ITEMS)
        self.queues: list[Any] = []
        self._exporters: list[CountingExporter] = []
        self._received = self._overflowed = 0

    def hold(self, item: Any) -> None:
        """Keep an item; the oldest may have to go for it."""
        if len(self.held) == HELD_ITEMS:
            self._figures.add_dropped(1)
        self.held.append(item)

    def export(self, item: Any) -> None:
        """Put an item into the SDK's queues."""
        self._received += 1
        item = self._prepare(item)
        for queue in self.queues:
            self._put(queue, item)
        if self._exporters:
            pending = self._received - self._overflowed - self._exporters[0].handled
            if pending > self._inline.pending_limit:  # the queue has dropped its oldest
                self._overflowed += 1
                self._figures.add_dropped(1)

    def drop(self, _: Any) -> None:
        """Count an item that comes when all is closed."""
        self._figures.add_dropped(1)

    def start(self) -> None:
        """Make the queues and exporters, unless they are there."""
        if not self.queues:
            self._exporters = self._make_exporters()
            make_queue = self._inline.outgoing.make_queue
            self.queues = [make_queue(each) for each in self._exporters]

    def export_held(self) -> None:
        """Put what was held into the queues; other threads may hold more meanwhile."""
        with suppress(IndexError):
            while True:
                self.export(self.held.popleft())

    def send_held(self) -> None:
        """Send what is held at once (the forked sender)."""
        for exporter in self._make_exporters():
            exporter.export([self._prepare(item) for item in self.held])

    def close(self) -> list[Callable[[], object]]:
        """Return calls that send what is in the queues and end them."""
        queues, self.queues = self.queues, []
        return [queue.shutdown for queue in queues]

    def count_missing(self) -> None:
        """Count what was still in the queues when they were closed."""
        handled = sum(each.handled for each in self._exporters)
        missing = self._received * len(self._exporters) - handled - self._overflowed
        if missing > 0:
            self._figures.add_dropped(missing)
        self._received = self._overflowed = 0
        self._exporters = []

    def _make_exporters(self) -> list[CountingExporter]:
        """Make the exporters; one that cannot be made is an error to report."""
        made = [self._make_exporter(make) for make in self._inline.exporters]
        return [each for each in made if each is not None]

    def _make_exporter(self, make: Callable[[], Exporter]) -> CountingExporter | None:
        try:
            exporter = make()
        except Exception as exc:  # noqa: BLE001 - any exporter
            self._row.note_error(error_text(exc))
            self._delivery_log.poll()
            return None
        return CountingExporter(
            exporter, self._figures, self._make_health(), self._delivery_log.poll
        )

    def _make_health(self) -> Health:
        signal, counters = self._inline.outgoing.signal, self._counters
        if signal is not LOGS:
            return MainHealth(self._row, self._figures)
        row = counters.rows[EXPORTER_ROW]
        return SecondHealth(signal, row, self._figures, lambda: counters.is_failing)


class InlineRoute:
    """Exports in this process, whichever it is.

    Args:
        signals: What is exported.
        counters: The shared page of the worker.
        delivery_log: Writes the log lines, in the main process.
        holds: Whether this process holds its items until it is known to stay.
        forks_safely: Whether exporters can be made in a process forked from an
            exporting one (not with gRPC).
        metrics: Exports metrics; None without them.

    Attributes:
        has_sent: Whether exporters were made in this process.
    """

    failure = ""  # nothing has to be started
    restarts = 0
    child_share = 0.6  # of the time a stop may take; the rest is the main process's

    def __init__(
        self,
        signals: Sequence[InlineSignal],
        counters: Counters,
        delivery_log: DeliveryLog,
        *,
        holds: bool,
        forks_safely: bool,
        metrics: InlineMetrics | None = None,
    ) -> None:
        self.metrics = metrics
        self._counters = counters
        self._delivery_log = delivery_log
        self._forks_safely = forks_safely
        self._row = counters.rows[MAIN_ROW]
        self._lanes = {
            each.outgoing.signal.number: InlineLane(each, counters, delivery_log)
            for each in signals
        }
        self._starting = threading.Lock()
        self._sender = HeldSender()
        self.has_sent = False
        self._pid = os.getpid()
        self._take: Callable[[InlineLane, Any], None] = (
            InlineLane.hold if holds else self._start_and_export
        )
        ExportLogHandler(self._note_error, is_exporting).install()

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
        """Take an item: ``Route.hand_over``."""
        del resource, ends_work, ends_task, in_flight
        if self._pid != os.getpid():
            self._begin_after_fork()
        self._take(self._lanes[signal.number], item)

    def hand_over_ended(
        self,
        span: Unobserved,
        *,
        ends_work: bool,
        ends_task: bool,
        in_flight: memoryview | None,
    ) -> None:
        """Take a span that ends as it began: ``Route.hand_over_ended``."""
        self.hand_over(
            TRACES,
            ended_span(span),
            span.origin.template.resource,
            ends_work=ends_work,
            ends_task=ends_task,
            in_flight=in_flight,
        )

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._row.add_left_out(name)

    def begin_metrics(self) -> None:
        """Note that this process has measured something for the first time."""
        if self.metrics is not None:
            self.metrics.begin()

    def flush(self, seconds: float, signals: Sequence[Signal] | None = None) -> bool:
        """Send what is there; return whether that ended in time."""
        is_asked = signals is None or METRICS in signals
        if self.metrics is not None and is_asked and not self.metrics.flush(seconds):
            return False
        lanes = self._lanes.values()
        queues = [queue for lane in lanes for queue in lane.queues]
        if self._pid != os.getpid() or not queues:
            return not any(lane.held for lane in lanes)
        return run_with_deadline(
            [queue.force_flush for queue in queues], seconds, self._is_hopeless
        )

    def hold(self, signal: Signal, item: Any) -> None:
        """Keep an item until there is a reason to make the exporters."""
        if self._pid != os.getpid():
            self._begin_after_fork()
        self._lanes[signal.number].hold(item)

    def take_held(self, signal: Signal) -> list[Any]:
        """Return what was kept by ``hold``, which leaves by another route."""
        lane = self._lanes.get(signal.number)
        if lane is None:
            return []
        held = lane.held
        items = list(held)
        held.clear()
        return items

    # The life of a process: launch/lifecycle.py and telemetry/setup.py.

    def main_started(self, *, forks: bool) -> None:
        """Export from here in a main process that never forks."""
        self._pid = os.getpid()  # a detached beat is the one that stays
        if self.metrics is not None:
            self.metrics.main_started(forks=forks)
        if not forks:
            self.child_started(MAIN_ROW)

    def child_is_idle(self) -> bool:
        """Do nothing: a thread sends what waits."""
        return False

    def child_started(self, row: int) -> None:
        """Export in this process from now on; called after its fork.

        Touches no network. A row of the shared counters belongs to one process.
        """
        if self._pid != os.getpid():
            self._forget_parent()
        self._row = self._counters.rows[row]
        self.has_sent = True
        for lane in self._lanes.values():
            lane.use_row(row)
            lane.start()
        self._take = InlineLane.export
        for lane in self._lanes.values():
            lane.export_held()

    def close(self, seconds: float) -> bool:
        """Send what is there, with a time limit; the last act of a process."""
        if self._pid != os.getpid():
            return True
        end = time.monotonic() + seconds
        self._sender.finish(end)
        lanes = self._lanes.values()
        if any(lane.held for lane in lanes):
            self.child_started(MAIN_ROW)
        self._take = InlineLane.drop
        closing = [close for lane in lanes for close in lane.close()]
        if self.metrics is not None:
            closing += self.metrics.last(end - time.monotonic())
        is_done = run_with_deadline(
            closing,
            end - time.monotonic(),
            self._is_hopeless,
        )
        for lane in lanes:
            lane.count_missing()
        return is_done

    def poll(self) -> None:
        """Send held items and write due lines; called by the main process's timer."""
        if self._pid == os.getpid():
            self._send_held()
        if self.metrics is not None:
            self.metrics.poll()
        self._delivery_log.poll()

    def _note_error(self, text: str) -> None:
        note_error(text)
        self._delivery_log.poll()

    def _start_and_export(self, lane: InlineLane, item: Any) -> None:
        """Make the exporters in the first thread; others leave their items to it."""
        lane.hold(item)
        while lane.held and self._starting.acquire(blocking=False):
            try:
                self.child_started(MAIN_ROW)
            finally:
                self._starting.release()

    def _forget_parent(self) -> None:
        self._starting = threading.Lock()  # another thread of the parent may have it
        for lane in self._lanes.values():
            lane.forget_parent()
        self._sender = HeldSender()
        self._pid = os.getpid()

    def _begin_after_fork(self) -> None:
        """An item is complete in a process that Celery did not announce."""
        was_exporting = any(lane.queues for lane in self._lanes.values())
        self._forget_parent()
        if was_exporting and not self._forks_safely:
            self._take = InlineLane.drop
            return
        self._take = self._start_and_export
        atexit.register(self.close, UNANNOUNCED_SECONDS)
        # Children of multiprocessing end by os._exit, past atexit.
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.close, (UNANNOUNCED_SECONDS,), exitpriority=0)

    def _is_hopeless(self, waited_seconds: float) -> bool:
        return waited_seconds >= FIRST_ATTEMPT_SECONDS and self._counters.is_hopeless

    # What is held leaves through a forked copy.

    def _send_held(self) -> None:
        lanes = [lane for lane in self._lanes.values() if lane.held]
        if self._sender.is_busy() or not lanes:
            return

        def send() -> None:
            for lane in lanes:
                lane.send_held()

        self._sender.start(send)
        for lane in lanes:
            lane.held.clear()
