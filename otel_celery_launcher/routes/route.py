# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a route is: how telemetry leaves one process of a worker, or of a program.

Three of them, one type:

``handoff.HandoffRoute``        to the exporter process, at the end of each item
``inline.InlineRoute``          through the SDK's queue and exporter, in this process
``until_fork.UntilForkRoute``   inline until the first fork, handed off from then on

The front of a signal (``telemetry/traces.py``) is what the SDK calls; it hands items to
the route. A route knows nothing of a signal but its row and an ``Outgoing``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.signals import Signal

# Hands over the span of a run that ends as it began: resource, start frame, nanoseconds
# since the epoch, attributes that it ends with.
HandOverRun = Callable[["Resource", bytes, int, dict[str, str]], None]


class Exporter(Protocol):
    """An exporter of the SDK, prepared: ``delivery/exporters.py``."""

    def export(self, items: Sequence[Any]) -> bool:
        """Send a batch; return whether it was taken."""

    def shutdown(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A signal as a process of the worker sends it.

    Attributes:
        signal: Its row.
        encode: Makes a frame of an item, for the exporter process.
        make_queue: Makes the SDK's queue and thread before an exporter, for inline export.
        put: Puts an item into such a queue.
    """

    signal: Signal
    encode: Callable[[Any], bytes]
    make_queue: Callable[[Any], Any]
    put: Callable[[Any, Any], object]


class Route(Protocol):
    """How telemetry leaves a process; called in the process and thread it comes from."""

    @property
    def failure(self) -> str:
        """Why no exporter process could be started; empty if one was, or need not be."""

    @property
    def hand_over_run(self) -> HandOverRun | None:
        """Takes runs as they are encoded; None where the route wants spans."""

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""

    @property
    def child_share(self) -> float:
        """The share of the time a stop may take that is a pool child's; 0 to 1."""

    def hand_over(
        self,
        signal: Signal,
        item: Any,
        resource: Resource,
        *,
        ends_work: bool,
        ends_task: bool,
    ) -> None:
        """Take an item that is complete.

        Args:
            signal: Whose it is.
            item: The SDK's object.
            resource: Its resource.
            ends_work: Whether nothing of this process is above it: a request ends with it.
            ends_task: Whether a task ends with it.
        """

    def count_left_out(self, name: str) -> None:
        """Count a span that is not begun."""

    def flush(self, seconds: float) -> bool:
        """Send what is there; return whether that ended in time."""

    def main_started(self, *, forks: bool) -> None:
        """Begin in a main process, before its first fork.

        Args:
            forks: Whether it forks; where not, it is the process that stays.
        """

    def child_started(self, row: int) -> None:
        """Begin in a child after its fork, or in an interpreter of its own.

        Args:
            row: Of the counters.
        """

    def child_is_idle(self) -> bool:
        """Send what was kept, as no task's end will; return whether something is left."""

    def poll(self) -> None:
        """Send what waits and write due lines; called twice a second in main processes."""

    def close(self, seconds: float) -> bool:
        """Send what is left, as the last act of a process.

        Args:
            seconds: The longest time it may take.

        Returns:
            Whether all of it was sent.
        """
