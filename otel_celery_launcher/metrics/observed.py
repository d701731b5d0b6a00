# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Callbacks of observable instruments, called once an interval in each process.

They are the application's code: they may be slow, hang, or raise. So they run in threads
of their own, never in Celery's loop and never in a task's thread. One thread waits for
the next round; another one runs a round. If a callback does not return in time, it is
given up with the thread that it hangs in, and the others go on in a new one. One that
raises three times is given up, too.

A process that neither measures nor observes anything has no thread. The threads are none
of ``threading``'s, so that spans are sent as if there were none. No process forks while
a callback runs, unless that takes long: a child would inherit the locks it holds.
"""

from __future__ import annotations

import _thread
import os
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Observation

from otel_celery_launcher import messages
from otel_celery_launcher.errors import MALFORMED_ERRORS, describe_failure
from otel_celery_launcher.metrics.layout import Kind, clean_items

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from otel_celery_launcher.metrics.layout import Description
    from otel_celery_launcher.metrics.writer import Writer

# How long a callback may take.
CALLBACK_SECONDS = 10.0

# After raising so often, a callback is called no more.
FAILURES = 3

# How long a fork waits for a callback that runs.
FORK_SECONDS = 0.2

# A host would be reported once for each process: these are the main process's alone.
OF_THE_HOST = "system."


class Observed:
    """A callback.

    Args:
        description: Its instrument.
        callback: Returns observations; a function, or a generator.
    """

    def __init__(self, description: Description, callback: Any) -> None:
        self.description = description
        self._call = _as_function(callback)
        self._failures = 0
        self.is_given_up = False

    def observe(self, writer: Writer, seconds: float) -> None:
        """Ask for values and write them; what is not said any more is forgotten."""
        options = CallbackOptions(timeout_millis=seconds * 1000)
        try:
            observations = list(self._call(options))
        except Exception as exc:  # noqa: BLE001 - the application's
            self._failures += 1
            if self._failures >= FAILURES:
                self.give_up(f"has raised {FAILURES} times ({describe_failure(exc)})")
            return
        for each in observations:
            self._write(writer, each)

    def _write(self, writer: Writer, observation: Observation) -> None:
        try:
            items = clean_items(observation.attributes or {})
            cells, _ = writer.cells(self.description, items)
            value = observation.value
            if not -float("inf") < value < float("inf"):
                return
            page = writer.page
            if self.description.kind is Kind.OBSERVED_COUNTER:
                page.values[cells + 1] = value
            else:
                page.values[cells] = value
        except MALFORMED_ERRORS:
            return
        page.words[cells + 2] = value.__class__ is not int
        if self.description.kind is not Kind.OBSERVED_COUNTER:
            page.words[cells + 1] = time.time_ns()

    def give_up(self, why: str) -> None:
        """Call it no more, and say so once in this process."""
        self.is_given_up = True
        messages.log(
            f"the callback of the metric {self.description.name} {why}: it is not called"
            " any more in this process, and its values are missing. Tasks are not affected"
        )


class Observers:
    """Calls the callbacks of a process.

    Args:
        writer: Of the process.
        seconds: Between two rounds.
    """

    def __init__(self, writer: Writer, seconds: float) -> None:
        self._writer = writer
        self._seconds = seconds
        self._observed: list[Observed] = []
        self._waits_in = 0  # process whose thread waits for the next round
        self._main = os.getpid()
        self._calling = _thread.allocate_lock()
        writer.on_new_process(self._forget, self._start)
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._after_fork,
        )
        self._held: Any = None  # while this process forks

    def _forget(self) -> None:
        self._calling = _thread.allocate_lock()

    def add(self, description: Description, callback: Any) -> None:
        """Call a callback from now on."""
        self._observed.append(Observed(description, callback))
        if self._writer.is_ready[0]:
            self._start()

    def use_main(self) -> None:
        """Say that this process is the one that reports its host (main process)."""
        self._main = os.getpid()

    def use_no_main(self) -> None:
        """Say that another process reports the host (spawned pool child)."""
        self._main = 0

    def observe(self, seconds: float) -> None:
        """Run a round in another thread, and wait for it.

        Args:
            seconds: How long one callback may take.
        """
        left = [each for each in self._observed if self._is_called(each)]
        while left:
            turn: list[Observed] = []
            done = _thread.allocate_lock()
            done.acquire()
            _thread.start_new_thread(self._run, (left, turn, done))
            if self._is_done(done, turn, seconds):
                return
            self._calling = _thread.allocate_lock()  # the hanging thread has the other
            hanging = turn[-1]
            hanging.give_up(f"has not returned within {seconds:g} s")
            left = left[left.index(hanging) + 1 :]

    @staticmethod
    def _is_done(done: Any, turn: list[Observed], seconds: float) -> bool:
        """Wait for a round; return False if one callback takes too long."""
        seen = 0
        while True:
            if done.acquire(timeout=seconds):
                return True
            if len(turn) == seen:
                return False
            seen = len(turn)

    def _is_called(self, observed: Observed) -> bool:
        is_hosts = observed.description.name.startswith(OF_THE_HOST)
        is_elsewhere = is_hosts and os.getpid() != self._main
        return not observed.is_given_up and not is_elsewhere

    def _run(self, observed: list[Observed], turn: list[Observed], done: Any) -> None:
        try:
            for each in observed:
                turn.append(each)
                with self._calling:
                    each.observe(self._writer, CALLBACK_SECONDS)
        finally:
            done.release()

    def _start(self) -> None:
        """Start the thread that waits, in a process that has something to observe."""
        pid = os.getpid()
        if self._waits_in != pid and self._observed:
            self._waits_in = pid
            try:
                _thread.start_new_thread(self._wait, (pid,))
            except RuntimeError:  # no thread is left: no values
                return

    def _wait(self, pid: int) -> None:
        while os.getpid() == pid:
            time.sleep(self._seconds)
            try:
                self.observe(CALLBACK_SECONDS)
            except RuntimeError:  # no thread is left: the next round may have one
                continue

    def _before_fork(self) -> None:
        lock = self._calling
        self._held = lock if lock.acquire(timeout=FORK_SECONDS) else None

    def _after_fork(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()


def _as_function(callback: Any) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return a function for a callback: the API takes generators, too."""
    if not hasattr(callback, "send"):
        return callback  # type: ignore[no-any-return]
    generator: Generator[Iterable[Observation], CallbackOptions, None] = callback
    begun: list[bool] = []

    def send(options: CallbackOptions) -> Iterable[Observation]:
        if not begun:
            begun.append(True)
            next(generator)
        try:
            return generator.send(options)
        except StopIteration:
            return ()

    return send
