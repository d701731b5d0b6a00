# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process as the main process sees it: start, watch, stop.

Runs in the main process. A forked child inherits it but does nothing with it, except in
programs that are not Celery's, where a child may take over (``Supervisor.adopt``).
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.ipc import inherited, tree
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.routes.interpreter import (
    application_path,
    python_executable,
    secret_input,
)
from otel_celery_launcher.settings.checks import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.routes.shared_queue import SharedQueue

# An exporter process without a heartbeat for this long is killed and replaced.
SILENT_SECONDS = 10.0

# After this time without a sign of life the supervisor receives instead of it.
KEEP_SECONDS = 0.7

# The successor of a process that has lived for a while or sent something starts at once.
# After those that die young there are pauses, in seconds: by how many did so in a row.
YOUNG_SECONDS = 2.0
RESTART_PAUSES = (0.0, 0.0, 0.5, *2 * (1.0,), *5 * (2.0,), 5.0, 10.0, 30.0)

# The longest pause while the worker ends.
ENDING_PAUSE = 0.2

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


class SpoolConfig(NamedTuple):
    """Where the exporter process keeps its queue in a file.

    Attributes:
        directory: An absolute path.
        size: Bytes of the file.
        name: Of this worker's file: unique among all workers.
    """

    directory: str
    size: int
    name: str


class ExportedMetrics(NamedTuple):
    """The metrics that the exporter process exports.

    Attributes:
        page: Where they are.
        config: As ``exporter_process/metric_export.py`` reads it.
    """

    page: MetricPage
    config: dict[str, Any]

    def are_taken(self) -> bool:
        """Return whether a collector has ever taken any."""
        return self.page.was_reached(len(self.config["exporters"]))


class Supervisor:
    """Starts the exporter process and keeps one alive.

    Args:
        queues: What the exporter process reads. What the first one has is kept in the
            spool, and as long as it can be read there is an exporter process.
        counters: The shared page.
        service_name: For a span of a worker that has sent none.
        spool: Where the queue outlives the worker; None for memory.
        metrics: Metrics that it exports; None without any.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        queues: Sequence[SharedQueue],
        counters: Counters,
        service_name: str,
        *,
        spool: SpoolConfig | None = None,
        metrics: ExportedMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queues = tuple(queues)
        self._counters = counters
        self._supervising = ProcessClaim()
        self._service_name = service_name
        self._spool = spool
        self._metrics = metrics
        self.about_broker = ""  # JSON for exporter_process/queue_watch.py, a secret
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._handled_before = 0  # when it was started
        self._young_deaths = 0
        self._start_at: float | None = None  # of the successor
        self._watching = _thread.allocate_lock()
        self._is_ending = self._has_hurried = False
        self.is_stopped = False
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
        """Replace a dead or silent exporter process; called by a timer or a thread."""
        process = self._process
        if (process is None and not self.failure) or not self.is_owner():
            return
        if self._watching.acquire(blocking=False):
            try:
                if process is None:
                    self._try_again()
                else:
                    self._watch(process)
            finally:
                self._watching.release()

    def _try_again(self) -> None:
        """Receive instead of an exporter process that could not be started; start it."""
        self._keep()
        if self._clock() >= self._started + RESTART_PAUSES[-1]:
            self._release()
            self._start()

    def give_up(self) -> None:
        """Count what no exporter process will send: none could be started."""
        if self.failure and self.is_owner():
            with self._watching:
                self._keep()
                for queue in self._queues:
                    queue.drop_what_is_kept()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self._look_at(process)
            return
        if self._start_at is None:
            self._start_at = self._note_death(process.returncode)
            if self._is_ending:
                self._start_at = min(self._start_at, self._clock() + ENDING_PAUSE)
        if self._is_ending and not self._has_hurried:
            self._has_hurried, self._start_at = True, self._clock()
        self._keep()
        if self._clock() >= self._start_at:
            self._replace()

    def _look_at(self, process: subprocess.Popen[bytes]) -> None:
        """Receive instead of an exporter process that is stopped, or kill it."""
        silent = self._silent_seconds()
        if silent > SILENT_SECONDS:
            process.kill()
        elif silent > KEEP_SECONDS:
            self._keep()
        elif self.restarts and self._has_no_heartbeat():
            self._keep()
            self._release()  # it may need what is kept at any moment
        else:
            self._release()

    def _has_no_heartbeat(self) -> bool:
        """Return whether the exporter process does not read yet."""
        return self._counters.rows[EXPORTER_ROW].heartbeat < self._started

    def _release(self) -> None:
        """Leave what is kept to the exporter process."""
        for queue in self._queues:
            queue.release()

    def _keep(self) -> None:
        """Receive instead of an exporter process."""
        for queue in self._queues:
            queue.keep()

    def hurry(self) -> None:
        """Replace one that dies almost without a pause from now on: the worker ends."""
        self._is_ending = True
        self.watch()

    def descriptors(self) -> list[int]:
        """Return the numbers that ``close_open_fds`` must leave open."""
        return [each for queue in self._queues for each in queue.descriptors()]

    def _note_death(self, status: int) -> float:
        """Note how an exporter process has ended; return when the next one may start."""
        now = self._clock()
        has_worked = self._handled() > self._handled_before
        is_young = now - self._started < YOUNG_SECONDS and not has_worked
        self._young_deaths = self._young_deaths + 1 if is_young else 0
        if self._young_deaths > 1:
            self._note_status(status)
        row = self._counters.rows[EXPORTER_ROW]
        row.note_no_heartbeat()  # no task waits for it
        if self._spool is not None and status == -signal.SIGBUS:
            row.note_notice(
                "the exporter process could not read or write"
                f" {printable(self._spool.directory)} (SIGBUS): spans wait in memory from now on"
            )
            row.note_spools(False)
            self._spool = None
        for queue in self._queues:
            if not queue.outlives_its_reader:
                self._count_what_died(queue)
        return now + RESTART_PAUSES[min(self._young_deaths, len(RESTART_PAUSES) - 1)]

    def _replace(self) -> None:
        self._release()
        self._start_at = None
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
        self.is_stopped = True
        with self._watching:
            self._release()
            for queue in self._queues:
                queue.channel.close()
        process = self._process or process
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        spools = self._counters.rows[EXPORTER_ROW].spools
        for queue in self._queues[spools:]:
            self._count_what_died(queue)
        for queue in self._queues:
            queue.drop_what_is_kept()

    def _note_status(self, status: int) -> None:
        """Record how the process ended, unless it has recorded its own exception."""
        row = self._counters.rows[EXPORTER_ROW]
        if not (row.refused > self._started and row.error.startswith(LAST_WORDS)):
            row.note_error(f"{LAST_WORDS} ends with status {status}")

    def _count_what_died(self, queue: SharedQueue) -> None:
        """Count items that are lost with an exporter process, or with a queue."""
        for exported in queue.signals:
            figures = self._counters.rows[EXPORTER_ROW].of(exported.signal)
            figures.add_dropped(max(0, figures.unaccounted))

    def _handled(self) -> int:
        """Return how many items exporter processes have sent, or given up, so far."""
        row = self._counters.rows[EXPORTER_ROW]
        figures = [
            row.of(each.signal) for queue in self._queues for each in queue.signals
        ]
        return sum(each.exported + each.failed for each in figures)

    def _is_silent(self) -> bool:
        return self._silent_seconds() > SILENT_SECONDS

    def _silent_seconds(self) -> float:
        row = self._counters.rows[EXPORTER_ROW]
        return self._clock() - max(row.heartbeat, self._started)

    def _metric_pages(self) -> list[int]:
        """Return the descriptor of the page, if it is still ours."""
        return [] if self._metrics is None else self._metrics.page.descriptors()

    def _start(self) -> None:
        if not self._queues[0].can_be_read:
            return
        if not self._counters.descriptors():
            self.failure = "the descriptor of its counters was closed"
            return
        python = python_executable()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        source = subprocess.DEVNULL
        try:
            source = secret_input(self.about_broker)
            self._process = self._execute(python, source)
            self.failure = ""
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            # A later watch tries again.
            self.failure = f"{python}: {getattr(exc, 'strerror', exc)}"
        finally:
            self._started = self._clock()
            self._handled_before = self._handled()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if source != subprocess.DEVNULL:
                os.close(source)

    def _execute(self, python: str, source: int) -> subprocess.Popen[bytes]:
        pages = self._metric_pages()
        queues = [queue for queue in self._queues if queue.can_be_read]
        config = json.dumps(self._config(queues, pages))
        reads = [queue.channel.read for queue in queues if queue.channel.read]
        descriptors = (*reads, self._counters.descriptor, *self.descriptors(), *pages)
        return subprocess.Popen(
            [python, "-I", "-S", "-c", _PROGRAM],
            env={**os.environ, inherited.EXPORTER: config},
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
        )

    def _config(self, queues: list[SharedQueue], pages: list[int]) -> dict[str, Any]:
        """Return what ``exporter_process/server.py`` reads."""
        metrics = self._metrics
        return {
            "counters": self._counters.descriptor,
            "queues": [queue.config() for queue in queues],
            "service": self._service_name,
            "spool": None if self._spool is None else self._spool._asdict(),
            "metrics": {"page": pages[0], **metrics.config}
            if metrics is not None and pages
            else None,
            "parent": os.getpid(),
            "path": tree.exporter_path() or application_path(),
            "application_path": application_path(),
        }
