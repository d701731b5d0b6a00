# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The forked sender: a copy of a holding process that sends what is held, and ends.

A process that still forks must not have gRPC in it. Its copy never forks itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A sender is killed by its own alarm: the exporter's default timeout and a bit.
SENDER_SECONDS = 15


class HeldSender:
    """Runs one sender at a time (a holding main process)."""

    def __init__(self) -> None:
        self._pid: int | None = None

    def is_busy(self) -> bool:
        """Return whether one runs; reap one that has ended."""
        if self._pid is None:
            return False
        try:
            pid, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # reaped by the application
            pid = self._pid
        if pid:
            self._pid = None
        return self._pid is not None

    def start(self, send: Callable[[], None]) -> None:
        """Call a function in a forked copy of this process."""
        pid = os.fork()
        if pid == 0:
            _send_and_exit(send)
        self._pid = pid

    def finish(self, end: float) -> None:
        """Wait for it until a time, monotonic seconds; then kill it."""
        while self.is_busy() and time.monotonic() < end:
            threading.Event().wait(0.01)
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None


def _send_and_exit(send: Callable[[], None]) -> None:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SENDER_SECONDS)
        send()
    finally:
        os._exit(0)
