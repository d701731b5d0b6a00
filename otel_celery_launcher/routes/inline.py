# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Inline export: the process that runs the code owns its BatchSpanProcessor.

One ``InlineExport`` is made by the launcher and inherited by every process of the
worker. In each process it does one of three things with a span that has ended:

exporting   hand it to the BatchSpanProcessors of this process
holding     keep it, because this process still forks (the main process of a prefork
            pool) or is not yet the process that stays (before a detach); held spans
            leave through a short-lived forked sender, or when the process ends
closed      count it as dropped

A process forked from a holding one exports for itself from its first span on. A process
forked from an exporting one inherits a gRPC library in an unknown state, where a new
channel may hang (https://github.com/grpc/grpc/issues/31885): its spans are dropped and
counted, the task goes on.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_celery_launcher.delivery.deadline import run_bounded
from otel_celery_launcher.delivery.export_log import ExportLogHandler, error_text
from otel_celery_launcher.delivery.exporters import CountingExporter, is_exporting
from otel_celery_launcher.ipc.counters import MAIN_ROW, Counters, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_celery_launcher.routes.delivery_log import Reporter

# Spans a holding process keeps: as many as the SDK's own queue by default.
HELD_SPANS = 2048

# A forked sender is killed by its own alarm: the exporter's default timeout and a bit.
SENDER_SECONDS = 15

# How long a process that Celery did not announce may send at its end.
UNANNOUNCED_SECONDS = 2.0

# A collector that came up meanwhile answers a process's first attempt in this time.
FIRST_ATTEMPT_SECONDS = 0.1


class InlineExport(SpanProcessor):
    """The span processor that exports, in whatever process it finds itself.

    The same interface as ``handoff.processor.ProcessExport``.

    Args:
        exporter_classes: Makers of the exporters, called after the fork.
        counters: The shared page of the worker.
        reporter: Writes the log lines, in the main process.
        holds: Whether this process holds its spans until it is known to stay.
        forks_safely: Whether exporters can be made in a process forked from an
            exporting one (not with gRPC).
        pending_limit: Spans a BatchSpanProcessor can have on their way: its queue and
            one batch. It drops further ones without telling.
    """

    failure = ""  # nothing has to be started
    restarts = 0
    child_share = 0.6  # of the time a stop may take; the rest is the main process's

    def __init__(
        self,
        exporter_classes: Sequence[Callable[[], SpanExporter]],
        counters: Counters,
        reporter: Reporter,
        *,
        holds: bool,
        forks_safely: bool,
        pending_limit: int,
    ) -> None:
        self._exporter_classes = exporter_classes
        self._counters = counters
        self._reporter = reporter
        self._forks_safely = forks_safely
        self._row: Row = counters.rows[MAIN_ROW]
        self._held: deque[ReadableSpan] = deque(maxlen=HELD_SPANS)
        self._batches: list[BatchSpanProcessor] = []
        self._counting: list[CountingExporter] = []
        self._received = 0
        self._overflowed = 0
        self._pending_limit = pending_limit
        self._sender: int | None = None
        self._pid = os.getpid()
        self._take: Callable[[ReadableSpan], None] = (
            self._hold if holds else self._start_and_take
        )
        ExportLogHandler(self._note_error, is_exporting).install()

    # The span processor: called in every process, by the thread that ends a span.

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._pid != os.getpid():
            self._begin_after_fork()
        self._take(span)

    def add_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._row.add_left_out(name)

    def shutdown(self) -> None:
        """Send what is there: an application's shutdown ends nobody's tracing."""
        self.force_flush()

    def force_flush(self, timeout_millis: int = 5_000) -> bool:
        """Send what is there; return whether that ended in time."""
        if self._pid != os.getpid() or not self._batches:
            return not self._held
        return run_bounded(
            [batch.force_flush for batch in self._batches],
            timeout_millis / 1000,
            self._is_hopeless,
        )

    # The life of a process, called by launch/lifecycle.py.

    def main_started(self, *, forks: bool) -> None:
        """Export from here in a main process that never forks."""
        self._pid = os.getpid()  # a detached beat is the one that stays
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
        if not self._batches:
            self._counting = self._build()
            self._batches = [BatchSpanProcessor(each) for each in self._counting]
        self._take = self._export
        held, self._held = self._held, deque(maxlen=HELD_SPANS)
        for span in held:
            self._export(span)

    def close(self, seconds: float) -> bool:
        """Send what is there within so many seconds; the last act of a process."""
        if self._pid != os.getpid():
            return True
        end = time.monotonic() + seconds
        self._finish_sender(end)
        if self._held:
            self.child_started(MAIN_ROW)
        self._take = self._drop
        batches, self._batches = self._batches, []
        done = run_bounded(
            [batch.shutdown for batch in batches],
            end - time.monotonic(),
            self._is_hopeless,
        )
        handled = sum(each.handled for each in self._counting)
        missing = self._received * len(self._counting) - handled - self._overflowed
        if missing > 0:
            self._row.add_dropped(missing)
        return done

    def poll(self) -> None:
        """Send held spans and write due lines; called by the main process's timer."""
        if self._pid == os.getpid():
            self._send_held()
        self._reporter.poll()

    def _build(self) -> list[CountingExporter]:
        """Build the exporters; one that cannot be built is an error to report."""
        built = [self._build_one(make) for make in self._exporter_classes]
        return [each for each in built if each is not None]

    def _build_one(self, make: Callable[[], SpanExporter]) -> CountingExporter | None:
        try:
            exporter = make()
        except Exception as exc:  # noqa: BLE001 - any exporter
            self._note_error(error_text(exc))
            return None
        return CountingExporter(exporter, self._row, self._reporter.poll)

    def _note_error(self, text: str) -> None:
        self._row.note_error(text)
        self._reporter.poll()

    def _hold(self, span: ReadableSpan) -> None:
        if len(self._held) == HELD_SPANS:
            self._row.add_dropped(1)
        self._held.append(span)

    def _export(self, span: ReadableSpan) -> None:
        self._received += 1
        for batch in self._batches:
            batch.on_end(span)
        if self._counting:
            pending = self._received - self._overflowed - self._counting[0].handled
            if pending > self._pending_limit:  # the queue has dropped its oldest
                self._overflowed += 1
                self._row.add_dropped(1)

    def _start_and_take(self, span: ReadableSpan) -> None:
        self.child_started(MAIN_ROW)
        self._export(span)

    def _drop(self, span: ReadableSpan) -> None:
        self._row.add_dropped(1)

    def _forget_parent(self) -> None:
        """What the parent held or was sending is the parent's."""
        self._held = deque(maxlen=HELD_SPANS)
        self._batches, self._counting = [], []
        self._received = self._overflowed = 0
        self._sender = None
        self._pid = os.getpid()

    def _begin_after_fork(self) -> None:
        """A span has ended in a process that Celery did not announce."""
        was_exporting = bool(self._batches)
        self._forget_parent()
        if was_exporting and not self._forks_safely:
            self._take = self._drop
            return
        self._take = self._start_and_take
        atexit.register(self.close, UNANNOUNCED_SECONDS)
        # Children of multiprocessing end by os._exit, past atexit.
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.close, (UNANNOUNCED_SECONDS,), exitpriority=0)

    def _is_hopeless(self, waited_seconds: float) -> bool:
        return waited_seconds >= FIRST_ATTEMPT_SECONDS and self._counters.is_hopeless

    # The sender: a forked copy of a holding process, which never forks itself.

    def _send_held(self) -> None:
        self._reap_sender()
        if not self._held or self._sender is not None:
            return
        pid = os.fork()
        if pid == 0:
            self._send_and_exit()
        self._sender = pid
        self._held.clear()

    def _send_and_exit(self) -> None:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SENDER_SECONDS)
            for exporter in self._build():
                exporter.export(list(self._held))
        finally:
            os._exit(0)

    def _reap_sender(self) -> None:
        if self._sender is None:
            return
        try:
            pid, _ = os.waitpid(self._sender, os.WNOHANG)
        except ChildProcessError:  # reaped by the application
            pid = self._sender
        if pid:
            self._sender = None

    def _finish_sender(self, end: float) -> None:
        while self._sender is not None and time.monotonic() < end:
            self._reap_sender()
            threading.Event().wait(0.01)
        if self._sender is not None:
            os.kill(self._sender, signal.SIGKILL)
            os.waitpid(self._sender, 0)
            self._sender = None
