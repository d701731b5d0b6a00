# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Process mode in the worker's processes: each span is handed over at its end.

No thread, no lock held over a fork, no gRPC. What does not fit into the kernel's buffer
goes to a bounded backlog of this process, which is emptied at the end of the task, with
the next spans, by the main process's timer, by a pool child that has no task, and at the
end of the process.

Runs in the thread that ends a span, in every process of the worker. Nothing here catches
``Exception``: soft time limits are raised at any bytecode.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.ipc.channel import Channel, ChannelLostError
from otel_celery_launcher.ipc.counters import (
    EXPORTER_ROW,
    MAIN_ROW,
    Counters,
    Row,
)
from otel_celery_launcher.ipc.datagrams import (
    MESSAGE_BYTES,
    Envelope,
    flush_message,
)
from otel_celery_launcher.ipc.span_frames import (
    encode_end,
    encode_resource,
    encode_span,
)
from otel_celery_launcher.routes.backlog import Backlog

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_celery_launcher.routes.delivery_log import Reporter
    from otel_celery_launcher.routes.supervisor import Supervisor

# How long the end of a task may wait for room in the kernel's buffer, while the exporter
# process reads: its naps are half as long.
TASK_END_SECONDS = 0.1

# A reader that gave no sign for so long is not waited for.
READER_SECONDS = 2.0

# Trying costs as much as what is tried: a full message of the backlog.
TRY_AGAIN_SECONDS = 0.02

# How long a flush waits before it asks again.
ASK_AGAIN_SECONDS = 1.0

# Where other threads run, a send gives the interpreter away, and a busy thread keeps it
# for 5 ms (sys.getswitchinterval). There the spans inside a task go together: with the
# task's own span, or when so much time has passed.
GROUP_SECONDS = 0.05

# A timer that has called so recently will call again; it does twice a second.
POLLED_SECONDS = 2.0

# How long a wait sleeps between two looks.
_LOOK_SECONDS = 0.002


class ProcessExport(SpanProcessor):
    """Hands spans to the exporter process, in whatever process it finds itself.

    The same interface as ``exporter.inline.InlineExport``.

    Args:
        channel: The pair made by the launcher.
        counters: The shared page of the worker.
        reporter: Writes the log lines, in the main process.
        supervisor: Starts and watches the exporter process; None in a spawned child.
        is_started: Whether this process may start the exporter process at its first
            span; where not, ``main_started`` does (privileges, detaching).
        has_timer: Whether ``poll`` will be called; where not, spans watch.
    """

    child_share = 0.4  # of the time a stop may take

    def __init__(
        self,
        channel: Channel,
        counters: Counters,
        reporter: Reporter,
        supervisor: Supervisor | None,
        *,
        is_started: bool = False,
        has_timer: bool = True,
    ) -> None:
        self._channel = channel
        self._reporter = reporter
        self._counters = counters
        self._supervisor = supervisor
        self._has_timer = has_timer
        self._is_started = is_started
        self._polled = 0.0
        self._timer_called = 0.0  # in this process
        self._row: Row = counters.rows[MAIN_ROW]
        self._row_number = MAIN_ROW
        self._backlog = Backlog()
        self._envelopes: dict[int, tuple[Resource, Envelope]] = {}
        self._pid = os.getpid()
        self._sent = 0.0  # when a group went out; monotonic seconds
        self._tried = 0.0  # when the backlog did not fit; monotonic seconds
        self._has_waited_in_vain = False

    # The span processor.

    def on_end(self, span: ReadableSpan) -> None:
        """Hand a span over."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        self._look_around()
        try:
            envelope, data = self._envelope(span.resource), encode_span(span)
        except MALFORMED_ERRORS:
            self._row.add_dropped(1)
            return
        is_root = _is_local_root(span)
        is_task = is_root and span.kind is SpanKind.CONSUMER
        self._hand_over(envelope, data, is_root=is_root, is_task=is_task)

    def run_ended(
        self, resource: Resource, start: bytes, ended: int, changes: dict[str, str]
    ) -> None:
        """Hand over the span of a run that ends as it began; not told to ``on_end``.

        Args:
            resource: The span's.
            start: The whole span at its start, encoded.
            ended: Nanoseconds since the epoch.
            changes: Attributes that it ends with, too.
        """
        self._look_around()
        data = encode_end(start, ended, changes)
        self._hand_over(self._envelope(resource), data, is_root=True, is_task=True)

    def _look_around(self) -> None:
        """See in which process a span ends, and whether that has to watch."""
        if self._pid != os.getpid():
            self._forget_parent()
        if self._supervisor is not None and not self._has_timer:
            self._supervise()

    def _hand_over(
        self, envelope: Envelope, data: bytes, *, is_root: bool, is_task: bool
    ) -> None:
        waits = not is_task and contexts.has_other_threads()
        waits = waits and not (is_root and not self._is_polled())
        if waits or self._backlog or not self._send(envelope.message([data]), 1):
            self._keep(envelope, data)
            if (is_root and not waits) or self._is_group_due():
                self._send_backlog(is_task=is_task)

    def _is_polled(self) -> bool:
        """Return whether a timer sends what waits, twice a second (main process)."""
        return time.monotonic() - self._timer_called < POLLED_SECONDS

    def _send_backlog(self, *, is_task: bool) -> None:
        """Send what was kept; wait for room only where somebody is about to make some.

        A span that stays in the backlog is lost if this process is killed. But no task
        waits for an exporter process that does not read, and none waits twice for one
        that does not read fast enough.
        """
        waits = is_task and not self._has_waited_in_vain and self._is_read()
        if waits or time.monotonic() >= self._tried + TRY_AGAIN_SECONDS:
            is_empty = self._empty(TASK_END_SECONDS if waits else 0)
            self._tried = 0.0 if is_empty else time.monotonic()
            self._has_waited_in_vain = not is_empty and (
                waits or self._has_waited_in_vain
            )
        self._row.waiting = len(self._backlog)

    def _is_read(self) -> bool:
        heartbeat = self._counters.rows[EXPORTER_ROW].heartbeat
        return time.monotonic() - heartbeat < READER_SECONDS

    def add_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._row.add_left_out(name)

    def shutdown(self) -> None:
        """Send what is there: an application's shutdown ends nobody's tracing."""
        self.force_flush()

    def force_flush(self, timeout_millis: int = 5_000) -> bool:
        """Wait until the exporter process has sent what was handed over so far."""
        end = time.monotonic() + timeout_millis / 1000
        if not self._empty(timeout_millis / 1000):
            return False
        token = time.monotonic_ns()
        asked = -ASK_AGAIN_SECONDS
        while self._row.flushed < token:
            now = time.monotonic()
            if now >= end or self._counters.is_hopeless:
                return False
            if now - asked >= ASK_AGAIN_SECONDS and self._ask_to_flush(token):
                asked = now
            time.sleep(_LOOK_SECONDS)
        return True

    def _supervise(self) -> None:
        """Watch the exporter process where there is no timer; once a second."""
        now = time.monotonic()
        if self._is_started and now - self._polled >= 1.0:
            self._polled = now
            if self._supervisor is not None:
                self._supervisor.start_once()
                self._supervisor.adopt()
            self.poll()

    def _ask_to_flush(self, token: int) -> bool:
        """Ask the exporter process; a killed one may have taken the question along."""
        if self._supervisor is not None:
            self._supervisor.watch()
        return self._send(flush_message(self._row_number, token), 0)

    @property
    def failure(self) -> str:
        """Why no exporter process could be started; empty if one was, or not yet."""
        return "" if self._supervisor is None else self._supervisor.failure

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""
        return 0 if self._supervisor is None else self._supervisor.restarts

    # The life of a process, called by launch/lifecycle.py.

    def main_started(self, *, forks: bool) -> None:
        """Start the exporter process; called before the first fork."""
        del forks
        self._pid = os.getpid()  # a detached beat is the one that stays
        self._is_started = True
        if self._supervisor is not None:
            self._supervisor.own()
            self._supervisor.start_once()

    def child_started(self, row: int) -> None:
        """Count into a row of this process's own."""
        if self._pid != os.getpid():
            self._forget_parent()
        self._row, self._row_number = self._counters.rows[row], row
        self._row.drop_waiting()

    def child_is_idle(self) -> bool:
        """Send what was kept, as no task's end will; return whether something is left."""
        if self._backlog:
            self._send_backlog(is_task=False)
        return bool(self._backlog)

    def poll(self) -> None:
        """Empty the backlog and watch the exporter process; the main process's timer."""
        self._timer_called = time.monotonic() if self._has_timer else 0.0
        self._send_backlog(is_task=False)
        if self._supervisor is not None:
            self._supervisor.watch()
        self._reporter.poll()

    def close(self, seconds: float) -> bool:
        """Hand over what is left; in the main process, until all of it is sent."""
        if self._pid != os.getpid():
            self._forget_parent()
        supervisor = self._supervisor
        if supervisor is None or not supervisor.is_owner():
            done = self._empty(seconds)
        elif supervisor.was_started:
            done = self.force_flush(int(seconds * 1000))
            supervisor.stop()
        else:
            done = True
        self._row.waiting = len(self._backlog)
        self._row.drop_waiting()
        self._backlog.clear()
        return done

    def _forget_parent(self) -> None:
        """What the parent has in its backlog is the parent's to send, by its timer."""
        self._backlog = Backlog()
        self._timer_called = 0.0
        self._pid = os.getpid()

    def _envelope(self, resource: Resource) -> Envelope:
        known = self._envelopes.get(id(resource))
        if known is not None and known[0] is resource:
            return known[1]
        envelope = Envelope(encode_resource(resource))
        self._envelopes[id(resource)] = (resource, envelope)
        return envelope

    def _send(self, message: bytes, count: int) -> bool:
        """Send a message; one that cannot be sent ever again counts as dropped."""
        try:
            return self._channel.send(message)
        except ChannelLostError:
            self._row.add_dropped(count)
            return True

    def _keep(self, envelope: Envelope, data: bytes) -> None:
        dropped = self._backlog.add(envelope, data)
        if dropped:
            self._row.add_dropped(dropped)

    def _is_group_due(self) -> bool:
        now = time.monotonic()
        if self._backlog.bytes < MESSAGE_BYTES and now - self._sent < GROUP_SECONDS:
            return False
        self._sent = now
        return True

    def _empty(self, seconds: float) -> bool:
        """Send the backlog, oldest first; return whether it is empty."""
        end = time.monotonic() + seconds
        while group := self._backlog.take():
            spans = [data for _, data in group]
            if not self._send(group[0][0].message(spans), len(spans)):
                self._backlog.put_back(group)
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOOK_SECONDS)
        return True


def _is_local_root(span: ReadableSpan) -> bool:
    """Return whether no span of this process is above this one: a task's, a request's."""
    return span.parent is None or span.parent.is_remote
