# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Inline until the first fork or monkey patch, an exporter process from then on.

For programs that are not Celery's, which may or may not fork. A program that does not
fork needs only its inline exporter. Before the first fork, that exporter is closed, so
that no gRPC state is copied, and an exporter process is started for this process and
all that are forked from it. The same happens at the first span after gevent or eventlet
has patched, since gRPC would block the event loop at each export.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat.monkey_patching import is_patched, may_be_patched
from otel_celery_launcher.signals import LOGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.ipc.span_frames import Unobserved
    from otel_celery_launcher.routes.inline import InlineRoute
    from otel_celery_launcher.routes.route import Route
    from otel_celery_launcher.signals import Signal

# How long the first fork may wait for items that are on their way.
FORK_SECONDS = 1.0

# After a channel of gRPC was closed. Its threads end a moment later, and its own handler
# of forks (on by default in its core) may wait for them for ever: 5 of some 5,000 forks
# right after a close hung, and none of 1,800 that came 50 ms later (grpcio 1.85).
CALM_SECONDS = 0.1


class UntilForkRoute:
    """Two routes in one: the inline one, and from the first fork on the hand-off.

    Args:
        inline: Exports until the first fork.
        make_handoff: Makes what exports from then on.
    """

    failure = ""  # where no exporter process can be started it goes on inline

    def __init__(self, inline: InlineRoute, make_handoff: Callable[[], Route]) -> None:
        self._inline = inline
        self._route: Route = inline
        self._make_handoff = make_handoff
        self._is_final = False
        os.register_at_fork(before=self._before_fork)

    def hand_over_ended(
        self,
        span: Unobserved,
        *,
        ends_work: bool,
        ends_task: bool,
        in_flight: memoryview | None,
    ) -> None:
        """Take a span that ends as it began: ``Route.hand_over_ended``."""
        self._leave_patched_code()
        self._route.hand_over_ended(
            span, ends_work=ends_work, ends_task=ends_task, in_flight=in_flight
        )

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
        self._leave_patched_code()
        if signal is LOGS and self._holds_logs():
            self._inline.hold(signal, item)
            return
        self._route.hand_over(
            signal,
            item,
            resource,
            ends_work=ends_work,
            ends_task=ends_task,
            in_flight=in_flight,
        )

    def _leave_patched_code(self) -> None:
        """Start the exporter process once gevent or eventlet has patched."""
        if not self._is_final and is_patched():
            self.start_process()

    def _holds_logs(self) -> bool:
        """Return whether a log record is to wait: gevent may patch after it.

        A server logs before it forks, and the exporters import what must not be there
        when its workers patch.
        """
        return (
            self._route is self._inline
            and not self._is_final
            and not self._inline.has_sent
            and may_be_patched()
        )

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""
        self._route.count_left_out(name)

    def begin_metrics(self) -> None:
        """Note that this process has measured something for the first time."""
        self._leave_patched_code()
        self._route.begin_metrics()

    def flush(self, seconds: float, signals: Sequence[Signal] | None = None) -> bool:
        """Send what is there; return whether that ended in time."""
        return self._route.flush(seconds, signals)

    # The life of a process.

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""
        return self._route.restarts

    @property
    def child_share(self) -> float:
        """The share of the time a stop may take that is a child's."""
        return self._route.child_share

    def main_started(self, *, forks: bool) -> None:
        """Export from here; whether this forks, the first fork decides."""
        self._route.main_started(forks=forks)

    def child_started(self, row: int) -> None:
        """Count into a row of this process's own."""
        self._route.child_started(row)

    def child_is_idle(self) -> bool:
        """Send what was kept for want of room; return whether something is left."""
        return self._route.child_is_idle()

    def poll(self) -> None:
        """Send what is held and write due lines."""
        self._route.poll()

    def close(self, seconds: float) -> bool:
        """Send what is there, with a time limit; the last act of a process."""
        self._is_final = True  # a program that ends starts nothing any more
        return self._route.close(seconds)

    def start_process(self) -> None:
        """Export by an exporter process from now on."""
        if self._is_final:
            return
        self._is_final = True
        try:
            handoff = self._make_handoff()
        except OSError:  # no descriptor is left
            return
        handoff.main_started(forks=True)
        if handoff.failure:
            return
        if self._inline.metrics is not None:
            self._inline.metrics.stop_before_fork()
        for item, resource in self._inline.take_held(LOGS):
            handoff.hand_over(
                LOGS, (item, resource), resource, ends_work=True, ends_task=False
            )
        before, self._route = self._route, handoff
        before.close(FORK_SECONDS)
        if self._inline.has_sent:
            time.sleep(CALM_SECONDS)

    def _before_fork(self) -> None:
        """Start the exporter process before the first fork, so that all share it.

        Does nothing once gevent has patched, since its subprocess waits in the event
        loop, which does not run during a fork. The first span of each process then
        starts it.
        """
        if not is_patched():
            self.start_process()
