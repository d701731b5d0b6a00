# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process as the main process sees it: start, watch, stop.

Runs in the main process. A forked child inherits it but does nothing with it, except in
programs that are not Celery's, where a child may take over (``Supervisor.adopt``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.counters import EXPORTER_ROW
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.routes.interpreter import python_executable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.ipc.channel import Channel
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.signals import Signal

# An exporter process without a heartbeat for this long is killed and replaced.
SILENT_SECONDS = 10.0

# Pauses before a restart; a process that lived for a minute starts at the first again.
RESTART_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_SECONDS = 60.0

# How long an exporter process with nothing left to send may take to end.
END_SECONDS = 0.3

# Start of an error that says how the process ended, including its own last words.
LAST_WORDS = "the exporter process"

# Blocked in the exporter process, since a stop may signal a whole process group. Only
# SIGKILL ends it before its spans are sent.
BLOCKED_SIGNALS = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
)

# Code for an interpreter without third-party start-up code: no PYTHONPATH, no working
# directory (a queue.py there would shadow the stdlib's), no site (sitecustomize would
# instrument the process).
_PROGRAM = (
    "import json, os, sys;"
    f" sys.path += json.loads(os.environ[{inherited.EXPORTER!r}])['path'];"
    " from otel_celery_launcher.exporter_process.server import main; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSignal:
    """A signal that the exporter process exports.

    Attributes:
        signal: Its row.
        exporters: Entry point names of its exporters.
        redacts_exceptions: Whether messages of exceptions stay here.
    """

    signal: Signal
    exporters: tuple[str, ...]
    redacts_exceptions: bool = False

    def config(self) -> dict[str, Any]:
        """Return it as ``exporter_process/server.py`` reads it."""
        return asdict(self)


class Supervisor:
    """Starts the exporter process and keeps one alive.

    Args:
        channel: Its read end goes to the exporter process.
        counters: The shared page.
        signals: What is exported, and how.
        service_name: For a span of a worker that has sent none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        channel: Channel,
        counters: Counters,
        signals: Sequence[ExportedSignal],
        service_name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._counters = counters
        self._supervising = ProcessClaim()
        self._signals = tuple(signals)
        self._service_name = service_name
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._quick_deaths = 0
        self.restarts = 0
        self.failure = ""  # why no exporter process could be started

    @property
    def was_started(self) -> bool:
        """Whether there is, or was, an exporter process."""
        return self._process is not None

    def claim(self) -> None:
        """Make this process the one that watches (after a detach)."""
        self._supervising.claim()

    def is_owner(self) -> bool:
        """Return whether this process started, or may start, the exporter process."""
        return self._supervising.is_this()

    def adopt(self) -> None:
        """Start an exporter process to replace one that no process supervises any more.

        Called in processes forked from a program that is not Celery's. Its main process
        may have ended, or make no spans and so never check. One of the processes takes
        over.
        """
        if self.is_owner() or not (self._is_silent() or self._is_owner_gone()):
            return
        self._started = self._clock()  # the others: look again later
        if self._counters.claim_supervision():
            self.claim()
            self._start()

    def _is_owner_gone(self) -> bool:
        try:
            os.kill(self._supervising.pid, 0)
        except OSError as exc:  # one that has kept its privileges forbids it, and lives
            return isinstance(exc, ProcessLookupError)
        return False

    def start_once(self) -> None:
        """Start the exporter process unless it was started before."""
        if self._process is None and self.is_owner():
            self._start()

    def watch(self) -> None:
        """Replace a dead or silent exporter process."""
        if self._process is None or not self.is_owner():
            return
        if self._process.poll() is None:
            if self._is_silent():
                self._process.kill()
            return
        now = self._clock()
        if now - self._started > HEALTHY_SECONDS:
            self._quick_deaths = 0
        if self._quick_deaths:
            self._note_status(self._process.returncode)
        pause = RESTART_PAUSES[min(self._quick_deaths, len(RESTART_PAUSES) - 1)]
        if now - self._started >= pause:
            self._quick_deaths += 1
            self._count_what_died()
            self.restarts += 1
            self._start()

    def stop(self) -> None:
        """End the exporter process, which has sent what could be sent; reap it.

        With the channel closed it ends by itself, unless a process that a task left
        behind can still write.
        """
        process = self._process
        if process is None or not self.is_owner():
            return
        self._channel.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._count_what_died()

    def _note_status(self, status: int) -> None:
        """Record how the process ended, unless it has recorded its own exception."""
        row = self._counters.rows[EXPORTER_ROW]
        if not (row.refused > self._started and row.error.startswith(LAST_WORDS)):
            row.note_error(f"{LAST_WORDS} ends with status {status}")

    def _count_what_died(self) -> None:
        """Count items that a dead exporter process had read as dropped, in its row."""
        for exported in self._signals:
            figures = self._counters.rows[EXPORTER_ROW].of(exported.signal)
            figures.add_dropped(max(0, figures.unaccounted))

    def _is_silent(self) -> bool:
        row = self._counters.rows[EXPORTER_ROW]
        last_sign = max(row.heartbeat, self._started)
        return self._clock() - last_sign > SILENT_SECONDS

    def _start(self) -> None:
        read = self._channel.read
        if read is None or not self._channel.is_ours():
            return
        if not self._counters.descriptors():
            self.failure = "the descriptor of its counters was closed"
            return
        config = {
            "read": read,
            "counters": self._counters.descriptor,
            "signals": [each.config() for each in self._signals],
            "service": self._service_name,
            "parent": os.getpid(),
            "path": _import_path(),
        }
        python = python_executable()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        try:
            self._process = subprocess.Popen(
                [python, "-I", "-S", "-c", _PROGRAM],
                env={**os.environ, inherited.EXPORTER: json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(read, self._counters.descriptor),
                start_new_session=True,
                cwd="/",
            )
            self.failure = ""
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            # A later watch tries again.
            self.failure = f"{python}: {getattr(exc, 'strerror', exc)}"
        finally:
            self._started = self._clock()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _import_path() -> list[str]:
    """Return our import path, the working directory last: it comes after the stdlib."""
    path = [str(entry) for entry in sys.path if os.path.isabs(entry)]
    return sorted(path, key=lambda entry: entry == os.getcwd())
