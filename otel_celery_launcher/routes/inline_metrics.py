# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics that a process of the worker exports itself, since no exporter process does.

It reads the page of all its processes. A process that does not fork exports in a
thread. One that forks exports from a forked copy of itself, which lives for one export,
so that no gRPC state exists where the next child is forked. What writes to the console
does so in the main process, by its timer.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from otel_celery_launcher.delivery.deadline import run_with_deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.sender import MetricSender

# A forked copy is killed by its own alarm: the exporter's default timeout and a bit.
COPY_SECONDS = 15

# A process that ends because a fork follows exports for so long at most.
FORK_SECONDS = 1.0


class InlineMetrics:
    """Exports the page of this process and its children.

    Args:
        page: The page.
        make_sender: Makes what exports; called in the process that does.
        holds: Whether this process waits for ``main_started`` (Celery's roles).
        writes_here: Whether its exporters write to this process's standard output.
    """

    def __init__(
        self,
        page: MetricPage,
        make_sender: Callable[[], MetricSender],
        *,
        holds: bool,
        writes_here: bool,
    ) -> None:
        self._page = page
        self._make_sender = make_sender
        self._holds = holds
        self._writes_here = writes_here
        self._sender: MetricSender | None = None
        self._forks = True
        self._copy: int | None = None
        self._pid = os.getpid()
        self._is_measured = writes_here
        self._is_over = False

    def begin(self) -> None:
        """Export from now on: this process has measured something for the first time.

        In a program whose first process measures nothing, one of those forked from it
        exports for all.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self._pid == os.getpid():
            self._is_measured = True
        elif self._holds or self._is_measured or not self._page.claim_export():
            return
        else:
            self._pid, self._sender, self._is_measured = os.getpid(), None, True
        if not self._holds and not self._is_over:
            self._start_thread()

    def main_started(self, *, forks: bool) -> None:
        """Export from here on (main process)."""
        self._pid = os.getpid()
        self._forks = forks
        if not forks:
            self._holds = False
            if self._is_measured:
                self._start_thread()

    def poll(self) -> None:
        """Export if an interval has passed; called by the main process's timer."""
        if self._pid != os.getpid() or not self._forks or self._is_over:
            return
        if self._sender is None:
            self._sender = self._make_sender()
        self._reap()
        if self._copy is None and self._sender.is_due():
            if self._writes_here:
                self._sender.export()
            else:
                self._sender.note_due()
                self._copy = self._fork(self._sender)

    def flush(self, seconds: float) -> bool:
        """Export what is there; return whether that ended in time."""
        sender = self._sender
        if self._pid != os.getpid() or sender is None or not sender.has_thread:
            return True
        done = threading.Event()
        sender.flush(done.set)
        return done.wait(seconds)

    def last(self, seconds: float) -> list[Callable[[], object]]:
        """Return calls that export for the last time (main process).

        Args:
            seconds: How long they may take.
        """
        if self._pid != os.getpid() or self._is_over or not self._is_measured:
            return []
        self._is_over = True
        sender, self._sender = self._sender or self._make_sender(), None
        if sender.has_thread:
            return [lambda: sender.stop(seconds)]
        self._kill_copy()
        return [sender.export_last]

    def close(self, seconds: float) -> bool:
        """Export for the last time; return whether that ended in time."""
        return run_with_deadline(self.last(seconds), seconds, lambda _: False)

    def stop_before_fork(self) -> None:
        """End the thread: from here on an exporter process exports."""
        sender, self._sender = self._sender, None
        self._is_over = True
        if sender is not None:
            sender.stop(FORK_SECONDS, exports=False)

    def _start_thread(self) -> None:
        if self._sender is None:
            sender = self._make_sender()
            sender.prepare()
            sender.start()
            self._sender = sender

    def _fork(self, sender: MetricSender) -> int | None:
        pid = os.fork()
        if pid:
            return pid
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(COPY_SECONDS)
            sender.export()
        finally:
            os._exit(0)

    def _kill_copy(self) -> None:
        """End a copy that still exports: what follows has all that it has."""
        self._reap()
        if self._copy is not None:
            os.kill(self._copy, signal.SIGKILL)
            os.waitpid(self._copy, 0)
            self._copy = None

    def _reap(self) -> None:
        if self._copy is None:
            return
        try:
            pid, _ = os.waitpid(self._copy, os.WNOHANG)
        except ChildProcessError:  # reaped by the application
            pid = self._copy
        if pid:
            self._copy = None
