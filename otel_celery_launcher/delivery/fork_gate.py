# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps a fork out of an export: in the middle of one, gRPC's state cannot be copied.

Where a process exports in a thread of its own and the application forks, the forked
process may otherwise end by SIGSEGV or SIGABRT: 6 of 100 did, where each fork met a
channel that was being opened (``tests/process/test_lossless.py``).

Runs in the processes that export inline.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_celery_launcher.delivery.exporters import PreparedExporter

# An export takes milliseconds; where the collector does not answer, it takes ten
# seconds, and a fork waits no longer than this for it, once.
FORK_WAIT_SECONDS = 0.25

# An export waits no longer for a fork: what opens the gate again may have been interrupted.
FORK_SECONDS = 1.0


class ForkGate:
    """Lets exports begin while nobody forks, and forks while nobody exports."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._forks = 0  # threads that fork now
        # The exports that run, and those of them that a fork has waited for in vain.
        self._running: set[object] = set()
        self._stuck: set[object] = set()
        os.register_at_fork(
            before=self._close, after_in_parent=self._open, after_in_child=self._renew
        )

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Return what an export runs in."""
        export = object()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks, FORK_SECONDS)
            self._running.add(export)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(export)
                self._stuck.discard(export)
                self._changed.notify_all()

    def _close(self) -> None:
        """Let no export begin, and wait for those that run (before a fork)."""
        with self._changed:
            self._forks += 1
            if not self._changed.wait_for(
                lambda: self._running <= self._stuck, FORK_WAIT_SECONDS
            ):
                self._stuck |= self._running

    def _open(self) -> None:
        """Let exports begin again (after a fork, in the parent)."""
        with self._changed:
            self._forks = max(0, self._forks - 1)
            self._changed.notify_all()

    def _renew(self) -> None:
        """Forget the threads that export: they are not in this process (in the child)."""
        self._changed = threading.Condition()
        self._forks = 0
        self._running, self._stuck = set(), set()


GATE = ForkGate()


def guard(make: Callable[[], PreparedExporter]) -> Callable[[], PreparedExporter]:
    """Return what makes an exporter that no fork interrupts."""

    def make_guarded() -> PreparedExporter:
        with GATE.exporting():
            exporter = make()
        exporter.guard = GATE.exporting
        return exporter

    return make_guarded
