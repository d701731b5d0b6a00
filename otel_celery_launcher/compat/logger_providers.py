# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The provider of OpenTelemetry's own logging API, by which instrumentations emit events.

See ``compat/__init__.py``; the tests are in
``tests/unit/compat/test_logger_providers.py``. Verified with the API 1.30 to 1.45: a
record (to 1.34), or a record or its fields (from 1.35).
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, _internal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.resources import Resource

_FIELDS = (
    *("timestamp", "observed_timestamp", "severity_number", "severity_text"),
    *("body", "attributes", "event_name", "exception", "context"),
)


class EventLoggerProvider(LoggerProvider):
    """Hands over what is emitted.

    Args:
        take: Gets the name of the logger and the fields of a record. Must raise nothing
            but what a signal handler raises in it.
    """

    def __init__(self, take: Callable[[str, Mapping[str, Any]], object]) -> None:
        self.take = take

    def get_logger(self, *arguments: Any, **named: Any) -> Logger:
        """Return a logger."""
        return _EventLogger(self, arguments, named)


class _EventLogger(Logger):
    def __init__(
        self,
        provider: EventLoggerProvider,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> None:
        super().__init__(*arguments, **named)
        self._provider = provider
        self._arguments = arguments, named
        self._other: Logger | None = None  # of a provider that has taken our place

    @property
    def resource(self) -> Resource:
        """What the SDK's ``LoggingHandler`` reads (to 1.34), before it emits."""
        from opentelemetry.sdk.resources import Resource

        return Resource.get_empty()

    def enabled(self, **_: Any) -> bool:
        """Return that records leave."""
        return True

    def emit(self, record: Any = None, **fields: Any) -> None:
        """Hand a record over, unless it is a line of ``logging``: that was taken there."""
        if isinstance(sys._getframe(1).f_locals.get("self"), logging.Handler):
            return
        if other := self._find_other():
            given = () if record is None else (record,)
            other.emit(*given, **fields)
            return
        found = {name: getattr(record, name, fields.get(name)) for name in _FIELDS}
        found["span"] = _span_of(record, found.pop("context"))
        self._provider.take(self._name, found)

    def _find_other(self) -> Logger | None:
        """Return the logger of the application's own provider, if it has set one."""
        present = _internal._LOGGER_PROVIDER
        if self._other is None and isinstance(present, LoggerProvider):
            if isinstance(present, EventLoggerProvider):
                return None
            arguments, named = self._arguments
            self._other = present.get_logger(*arguments, **named)
        return self._other


def _span_of(record: Any, context: Any) -> trace.SpanContext:
    """Return where a record belongs: as it says, else the current span."""
    trace_id = getattr(record, "trace_id", None)
    if trace_id:
        return trace.SpanContext(
            trace_id,
            getattr(record, "span_id", None) or 0,
            is_remote=False,
            trace_flags=trace.TraceFlags(getattr(record, "trace_flags", None) or 0),
        )
    return trace.get_current_span(context).get_span_context()


def provide_events(take: Callable[[str, Mapping[str, Any]], object]) -> None:
    """Make events leave, unless the application sets a provider of its own, now or later.

    The API takes one provider only. So ours is put in its place without that it counts.
    """
    if _internal._LOGGER_PROVIDER is None:
        _internal._LOGGER_PROVIDER = EventLoggerProvider(take)
