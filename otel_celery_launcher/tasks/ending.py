# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Ends a span that nobody has looked at: it is handed over without the SDK's object.

Runs in the thread that ends the span, wherever a task runs or is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from otel_celery_launcher.compat.lazy_span import LazySpan
from otel_celery_launcher.ipc.span_frames import Unobserved

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_celery_launcher.compat.span_starter import SpanStarter


class Front(Protocol):
    """The span processor that hands spans to a route: ``telemetry/traces.py``."""

    @property
    def route(self) -> Any:
        """A ``routes.route.Route``."""

    @property
    def in_flight(self) -> dict[int, memoryview]:
        """The state of the record of each run that is about to end, by its span's id."""


def hand_over(
    front: Front | None,
    spans: SpanStarter,
    span: Span,
    start: bytes,
    changes: dict[str, str],
    *,
    ends_task: bool,
    in_flight: memoryview | None,
) -> bool:
    """End a span, and hand it over; return False if it has to end as others do.

    So it does if code has asked for more than its context, or others receive spans, too.

    Args:
        front: Receives the spans; None without one.
        spans: Has started the span.
        span: The span.
        start: Of ``encode_run_start``; b"" if it was not encoded.
        changes: Attributes that it ends with.
        ends_task: Whether a task ends with it.
        in_flight: The state of the run's record.
    """
    if front is None or type(span) is not LazySpan or not spans.has_only(front):
        return False
    found = LazySpan.end_unobserved(span, changes)
    if found is None:
        return False
    origin, ended = found
    parent = origin.parent
    front.route.hand_over_ended(
        tuple.__new__(Unobserved, (origin, start, ended, changes)),
        ends_work=parent is None or parent.is_remote,
        ends_task=ends_task,
        in_flight=in_flight,
    )
    return True
