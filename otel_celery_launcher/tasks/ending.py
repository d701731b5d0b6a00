# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Ends a span that nobody has looked at: it is handed over without the SDK's object.

Runs in the thread that ends the span, wherever a task runs or is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from otel_celery_launcher.compat.lazy_span import LazySpan

if TYPE_CHECKING:
    from typing import TypeGuard

    from opentelemetry.trace import Span


class Front(Protocol):
    """The span processor that hands spans to a route: ``telemetry/traces.py``."""

    @property
    def route(self) -> Any:
        """A ``routes.route.Route``."""

    @property
    def in_flight(self) -> dict[int, memoryview]:
        """The state of the record of each run that is about to end, by its span's id."""


def is_unobserved(span: Span) -> TypeGuard[LazySpan]:
    """Return whether a span has been asked for nothing but its context so far."""
    return type(span) is LazySpan


def hand_over(
    front: Front | None,
    span: LazySpan,
    start: bytes,
    changes: dict[str, str],
    *,
    ends_task: bool,
    in_flight: memoryview | None,
) -> bool:
    """End a span, and hand it over; return False if code has looked at it meanwhile.

    Args:
        front: Receives it, and nobody else does; None if it has to end as others do.
        span: The span.
        start: Of ``encode_run_start``; b"" if it was not encoded.
        changes: Attributes that it ends with.
        ends_task: Whether a task ends with it.
        in_flight: The state of the run's record.
    """
    if front is None or not (ended := span.end_unobserved(changes)):
        return False
    origin = span.origin
    parent = origin.parent
    front.route.hand_over_ended(
        origin,
        start,
        ended,
        changes,
        ends_work=parent is None or parent.is_remote,
        ends_task=ends_task,
        in_flight=in_flight,
    )
    return True
