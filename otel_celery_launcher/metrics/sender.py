# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the page and exports it: once an interval, when it is asked, and at the end.

Runs in the process that exports. Nothing is queued: what could not be exported is still
in the page, and the next export has it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.answers import Verdict
from otel_celery_launcher.delivery.health import SAID_FAILURES
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.marshalled import read_resource
from otel_celery_launcher.metrics.destination import Destination
from otel_celery_launcher.metrics.reader import PageReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.ipc.counter_rows import Figures
    from otel_celery_launcher.metrics.destination import Exporter, MetricConfig
    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.reader import Totals

# How often an attempt at the end, or one that somebody waits for, is repeated.
LAST_PAUSE_SECONDS = 0.5


class MetricSender:
    """Exports the page.

    Args:
        page: The page.
        config: How.
        makers: What makes each exporter, by its name.
        figures: Of metrics, in this process's row of the counters.
        health: Writes what the exporting process knows itself; called before a read.
        say: Says a sentence in the worker's log, once.
        are_spans_failing: Whether a line about spans says what is wrong already.
        on_stopped: Called when this exports no more.
    """

    def __init__(
        self,
        page: MetricPage,
        config: MetricConfig,
        makers: Mapping[str, Callable[[], Exporter]],
        figures: Figures,
        *,
        health: Callable[[PageReader], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
        are_spans_failing: Callable[[], bool] = lambda: False,
        on_stopped: Callable[[], object] = lambda: None,
    ) -> None:
        self._page = page
        self._config = config
        self._figures = figures
        self._health = health
        self._say = say
        self._are_spans_failing = are_spans_failing
        self._on_stopped = on_stopped
        self._reader = PageReader(page, config.interval)
        self._reading = threading.Lock()
        self._wake = threading.Condition()
        self._is_stopping = self._is_silent = self._is_full_said = False
        self.was_flushed = False  # and nothing is to be expected any more
        self._flushes: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None
        self._due = time.monotonic() + config.interval
        self._destinations = [
            Destination(page, number, name, make, config)
            for number, (name, make) in enumerate(makers.items())
        ]

    # In a thread of its own.

    def prepare(self) -> None:
        """Import and make now what exports: the end of a program is too late for that."""
        from otel_celery_launcher.metrics import points  # noqa: F401

        for each in self._destinations:
            each.prepare()

    def start(self) -> None:
        """Export in a thread from now on."""
        self._thread = threading.Thread(
            target=self._run, daemon=True, name="otel-export-metrics"
        )
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the thread lives, if there is one."""
        return self._thread is None or self._thread.is_alive()

    def flush(self, on_done: Callable[[], object]) -> None:
        """Export now, and call something when that was tried."""
        with self._wake:
            self._flushes.append(on_done)
            self._wake.notify()

    def stop(self, seconds: float, *, exports: bool = True) -> None:
        """End the thread.

        Args:
            seconds: How long it may take.
            exports: Whether it exports once more.
        """
        with self._wake:
            self._is_silent = not exports
            self._is_stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._is_stopping:
            with self._wake:
                seconds = max(0.0, self._due - time.monotonic())
                self._wake.wait_for(self._is_woken, seconds)
                flushes, self._flushes = self._flushes, []
            if not (flushes or self.is_due()):
                continue
            is_taken = self.export()
            if flushes and not is_taken and self._has_hope():
                self._retry_soon(flushes)
                continue
            self.was_flushed = bool(flushes) and is_taken
            for on_done in flushes:
                on_done()
        self.export_last()

    def _retry_soon(self, flushes: list[Callable[[], object]]) -> None:
        """Try again for those who wait; they wait no longer than they want."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_stopping, LAST_PAUSE_SECONDS)
            self._flushes = [*flushes, *self._flushes]

    def _is_woken(self) -> bool:
        return self._is_stopping or bool(self._flushes)

    def export_last(self) -> None:
        """Export until it is taken; whoever stops this sets the time limit."""
        while not self._is_silent and not self.export() and self._has_hope():
            time.sleep(LAST_PAUSE_SECONDS)
        for each in self._destinations:
            each.shutdown()
        self._on_stopped()

    def _has_hope(self) -> bool:
        return any(
            each.failures and each.was_reached and not each.is_off
            for each in self._destinations
        )

    # One export, in the thread of the caller.

    @property
    def has_thread(self) -> bool:
        """Whether it exports in a thread of its own."""
        return self._thread is not None

    def note_due(self) -> None:
        """Say that a copy of this process exports now."""
        self._due = time.monotonic() + self._config.interval

    def is_due(self) -> bool:
        """Return whether an interval has passed."""
        return time.monotonic() >= self._due

    def export(self) -> bool:
        """Export what is there; return whether all of it was taken."""
        self._due = time.monotonic() + self._config.interval
        is_taken = True
        with self._reading:
            totals, now = self._read()
            resource = self._resource()
            for each in self._destinations:
                if not each.is_off:
                    is_taken = self._export_to(each, totals, resource, now) and is_taken
        return is_taken

    def _export_to(
        self, destination: Destination, totals: Totals, resource: Resource, now: int
    ) -> bool:
        answer, count = destination.export(totals, resource, now)
        self._figures.add_sent(count)
        if answer.verdict is Verdict.TAKEN:
            if destination.is_said(is_failing=False):
                self._say(self._config.texts.again)
            return True
        self._figures.add_failed(1)
        if destination.is_off:
            self._say(self._config.texts.unsupported(answer.error))
        elif (
            destination.failures >= SAID_FAILURES
            and not self._are_spans_failing()
            and not destination.is_said(is_failing=True)
        ):
            self._say(self._config.texts.failing(answer.error))
        return False

    def collect(self) -> Any:
        """Return what is there as cumulative ``MetricsData``, for a pull reader."""
        from opentelemetry.sdk.metrics.export import MetricsData

        from otel_celery_launcher.metrics.points import PointMaker

        with self._reading:
            totals, now = self._read()
        maker = PointMaker(self._resource(), now, self._page.started)
        wholes = [
            each
            for chunks in maker.requests(totals)
            for each in maker.data(chunks).resource_metrics
        ]
        return MetricsData(resource_metrics=wholes)

    def _read(self) -> tuple[Totals, int]:
        self._health(self._reader)
        now = time.time_ns()
        totals = self._reader.read_bounded(now)
        if not self._is_full_said and self._page.lost:
            self._is_full_said = True
            self._say(self._config.texts.full)
        return totals, now

    def _resource(self) -> Resource:
        from opentelemetry.sdk.resources import Resource

        try:
            return read_resource(self._page.resource)
        except FrameError:  # none was set
            return Resource.get_empty()
