# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Spans that are not started, because they would only be noise.

A program that polls would make a trace of one span for each poll: a scheduler that
polls its database, Flower its broker, ``result.ready()`` in a loop the result backend.
Four rules, each with a setting, apply to the tracers that our provider returns:

- A client's call starts a trace only in web processes and pool children.
- A call by Celery itself is no span if a setting says so (``tasks/plumbing.py``).
- A statement that SQLAlchemy and its driver both record is one span, SQLAlchemy's.
- Spans of a process's own code start a limited number of traces a second.

A suppressed span has no ids, so nothing is propagated: a called service starts its own
trace. Runs in every process, at the start of each span of the application and of all
instrumentations except Celery's.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanKind,
)

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.quick_spans import QuickTracer, start_as_current_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

# Roles in which requests and background threads may start traces with a client's call.
ROLES_WITH_CLIENT_ROOTS = frozenset({"web"})

_SCOPE = "opentelemetry.instrumentation."

# No rule applies to spans of Celery: they may start traces, and a run is the hot path.
CELERY_SCOPE = f"{_SCOPE}celery"

# Names of the tracers of instrumentations of ORMs, which call a driver, and of drivers.
OUTER_SCOPES = frozenset({f"{_SCOPE}sqlalchemy", f"{_SCOPE}tortoiseorm"})
DRIVERS = (
    "aiopg",
    "asyncpg",
    "mysql",
    "mysqlclient",
    "psycopg",
    "psycopg2",
    "pymssql",
    "pymysql",
    "sqlite3",
)
DRIVER_SCOPES = frozenset(f"{_SCOPE}{name}" for name in DRIVERS)

# SQLAlchemy's span that is not a statement: spans of the driver inside it are kept.
NO_STATEMENT = "connect"

# Returned instead of each suppressed span; spans inside it are suppressed, too.
LEFT_OUT = NonRecordingSpan(INVALID_SPAN_CONTEXT)

# A burst may have as many traces as the rate allows in this time.
BURST_SECONDS = 10.0

# The current statement of this thread or coroutine.
_statement: ContextVar[Span | None] = ContextVar("otel_celery_statement", default=None)


class RootBudget:
    """Limits how many traces this process may start.

    Args:
        per_second: The average rate; 0 for no bound.
        clock: Monotonic seconds.
    """

    def __init__(
        self, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second * BURST_SECONDS
        self._looked = clock()

    def take(self) -> bool:
        """Return whether one more may begin now."""
        if not self._per_second:
            return True
        now = self._clock()
        earned = (now - self._looked) * self._per_second
        self._left = min(self._left + earned, self._per_second * BURST_SECONDS)
        self._looked = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SpanSuppressor:
    """Applies the rules to each tracer that the provider returns.

    Args:
        client_roots: Whether a client's call may start a trace: ``auto``, ``always``
            or ``never``.
        has_own_clients: What ``auto`` means here: whether clients start traces.
        has_duplicates: Whether drivers record statements that SQLAlchemy records, too.
        roots_per_second: Limit for ``RootBudget``.
        on_left_out: Called with the name of each span over the budget.
        front: The only processor of most tracers; None where it is not ours.
    """

    def __init__(
        self,
        *,
        client_roots: str,
        has_own_clients: bool,
        has_duplicates: bool,
        roots_per_second: float,
        on_left_out: Callable[[str], None],
        front: SpanProcessor | None = None,
    ) -> None:
        self._front = front
        self._client_roots = client_roots
        self._has_own_clients = has_own_clients
        self._has_duplicates = has_duplicates
        self._budget = RootBudget(roots_per_second)
        self._on_left_out = on_left_out

    def allow_clients_of_tasks(self) -> None:
        """Let clients begin traces, as far as the settings do (pool child)."""
        self._has_own_clients = True

    @property
    def _allows_client_roots(self) -> bool:
        return self._client_roots == "always" or (
            self._client_roots == "auto" and self._has_own_clients
        )

    def wrap(self, tracer: Any, scope: str) -> None:
        """Apply the rules to a tracer.

        Args:
            tracer: The SDK's.
            scope: The name that ``get_tracer`` was called with.
        """
        if scope == CELERY_SCOPE:
            return
        start = self._with_rules(tracer)
        if not self._has_duplicates and scope in OUTER_SCOPES:
            start = _remember_statements(start)
        elif not self._has_duplicates and scope in DRIVER_SCOPES:
            start = _leave_to_the_outer(start)
        tracer.start_span = start
        tracer.start_as_current_span = start_as_current_span(tracer)

    def _with_rules(self, tracer: Any) -> Callable[..., Span]:
        start: Callable[..., Span] = tracer.start_span
        quick = None if self._front is None else QuickTracer(tracer, self._front)

        def start_span(
            name: str,
            context: Context | None = None,
            kind: SpanKind = SpanKind.INTERNAL,
            *arguments: Any,
            **named: Any,
        ) -> Span:
            above = (
                contexts.current_span()
                if context is None
                else trace.get_current_span(context)
            )
            parent = above.get_span_context()
            if kind is SpanKind.CLIENT or kind is SpanKind.INTERNAL:
                if kind is SpanKind.CLIENT and contexts.is_suppressed(
                    context, is_below_a_span=parent.is_valid
                ):
                    return NonRecordingSpan(parent) if parent.is_valid else LEFT_OUT
                if not parent.is_valid and (
                    above is LEFT_OUT or not self._may_begin(name, kind)
                ):
                    return LEFT_OUT
            if quick is not None and parent.is_valid:
                span = quick.start(parent, name, kind, *arguments, **named)
                if span is not None:
                    return span
            return start(name, context, kind, *arguments, **named)

        return start_span

    def _may_begin(self, name: str, kind: SpanKind) -> bool:
        """Return whether a span may start a trace; report one over the budget."""
        if kind is SpanKind.CLIENT and not self._allows_client_roots:
            return False
        if self._budget.take():
            return True
        self._on_left_out(name)
        return False


class _Unrecorded(NonRecordingSpan):
    """A statement that is not recorded; spans inside it are not recorded, either."""

    has_ended = False

    def end(self, end_time: int | None = None) -> None:
        """Note the end."""
        del end_time
        self.has_ended = True


def _remember_statements(start: Callable[..., Span]) -> Callable[..., Span]:
    """Keep the last statement: it goes on until its span has ended."""

    def start_span(name: str, *arguments: Any, **named: Any) -> Span:
        span = start(name, *arguments, **named)
        if name == NO_STATEMENT:
            _statement.set(None)
            return span
        if not span.is_recording():
            span = _Unrecorded(span.get_span_context())
        _statement.set(span)
        return span

    return start_span


def _leave_to_the_outer(start: Callable[..., Span]) -> Callable[..., Span]:
    """Start no span of a driver while a statement lasts."""

    def start_span(name: str, *arguments: Any, **named: Any) -> Span:
        outer = _statement.get()
        if outer is not None:
            if isinstance(outer, _Unrecorded) and not outer.has_ended:
                context = outer.get_span_context()
                return NonRecordingSpan(context) if context.is_valid else LEFT_OUT
            if outer.is_recording():
                return NonRecordingSpan(outer.get_span_context())
        return start(name, *arguments, **named)

    return start_span
