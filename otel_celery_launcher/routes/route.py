# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a route is: how telemetry leaves one process of a worker, or of a program.

Three of them, one type:

``handoff.HandoffRoute``        to the exporter process, as items are complete
``inline.InlineRoute``          through the SDK's queue and exporter, in this process
``until_fork.UntilForkRoute``   inline until the first fork, handed off from then on

The front of a signal (``telemetry/traces.py``) is what the SDK calls; it hands items to
the route. Apart from runs and suppressed spans, a route knows a signal only by its
``Signal`` and ``Outgoing``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from otel_celery_launcher.routes.backlog import BACKLOG_BYTES

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.ipc.span_frames import Unobserved
    from otel_celery_launcher.signals import Signal


class Exporter(Protocol):
    """An exporter of the SDK, prepared: ``delivery/exporters.py``."""

    def export(self, items: Sequence[Any]) -> bool:
        """Send a batch; return whether it was taken."""

    def shutdown(self) -> None:
        """Close the connection."""


def _same(item: Any) -> Any:
    return item


class Outgoing(NamedTuple):
    """A signal as a process of the worker sends it.

    Attributes:
        signal: Its ``Signal``.
        encode: Makes a frame of an item, for the exporter process.
        make_queue: Makes the SDK's queue and thread before an exporter, for inline export.
        put: Puts what ``prepare`` returns into such a queue.
        prepare: Makes what the SDK's exporter takes of an item.
        backlog_bytes: What may wait in a process for room in the kernel's buffer.
        is_waited_for: Whether the end of a task may wait for that room.
    """

    signal: Signal
    encode: Callable[[Any], bytes]
    make_queue: Callable[[Any], Any]
    put: Callable[[Any, Any], object]
    backlog_bytes: int = BACKLOG_BYTES
    is_waited_for: bool = True
    prepare: Callable[[Any], Any] = _same


class Route(Protocol):
    """How telemetry leaves a process; called in the process and thread it comes from."""

    @property
    def failure(self) -> str:
        """Why no exporter process could be started; empty if one was, or need not be."""

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""

    @property
    def child_share(self) -> float:
        """Fraction (0 to 1) of the shutdown time that is reserved for pool children."""

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
        """Take an item that is complete.

        Args:
            signal: Whose it is.
            item: The SDK's object.
            resource: Its resource.
            ends_work: Whether the item is this process's local root, such as a request.
            ends_task: Whether a task ends with it.
            in_flight: The state of the run's record. It is cleared in the moment in
                which the span leaves: a killed process's run is not lost, nor sent twice.
        """

    def hand_over_ended(
        self,
        span: Unobserved,
        *,
        ends_work: bool,
        ends_task: bool,
        in_flight: memoryview | None,
    ) -> None:
        """Take a span that nobody has looked at, at a third of the cost of ``hand_over``."""

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""

    def begin_metrics(self) -> None:
        """Note that this process has measured something for the first time."""

    def flush(self, seconds: float, signals: Sequence[Signal] | None = None) -> bool:
        """Send what is there; return whether that ended in time.

        Args:
            seconds: How long it may take.
            signals: What is sent; None for all.
        """

    def main_started(self, *, forks: bool) -> None:
        """Begin in a main process, before its first fork.

        Args:
            forks: Whether it will fork. If not, it may export from now on.
        """

    def child_started(self, row: int) -> None:
        """Begin in a child after its fork, or in an interpreter of its own.

        Args:
            row: Of the counters.
        """

    def child_is_idle(self) -> bool:
        """Send what was kept, as no task's end will; return whether something is left."""

    def poll(self) -> None:
        """Send what waits, and write lines of the delivery log that are due.

        Called twice a second in main processes.
        """

    def close(self, seconds: float) -> bool:
        """Send what is left, as the last act of a process.

        Args:
            seconds: The longest time it may take.

        Returns:
            Whether all of it was sent.
        """
