# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Trace and span ids in log records, and in the lines that Celery writes.

Every record has ``otelTraceID``, ``otelSpanID``, ``otelTraceSampled`` and
``otelServiceName``. OpenTelemetry's own logging instrumentation uses the same names, so
an application's formats and JSON formatters find them. With
``OTEL_PYTHON_LOG_CORRELATION=true``, Celery's own formats write them into the text.

Runs in every process of the worker, in the thread that logs.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import signals
from celery.utils.log import ColorFormatter
from opentelemetry import trace

from otel_celery_launcher.compat import celery_private, contexts

IDS = "[trace_id=%(otelTraceID)s span_id=%(otelSpanID)s] "


# These loggers log each malformed header of each message, and any client can send such
# headers. The application's log would have lines that plain Celery does not write (API
# 1.30 to 1.45).
PROPAGATION_LOGGERS = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)


def silence_propagators() -> None:
    """Write nothing about headers that cannot be read (launcher, spawned child)."""
    for name in PROPAGATION_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def add_ids(service_name: str) -> None:
    """Put the ids on every log record from here on (launcher, spawned child)."""
    make, ids = logging.getLogRecordFactory(), _Ids(service_name)

    def make_with_ids(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        record.__dict__.update(ids.of(contexts.current_span().get_span_context()))
        return record

    logging.setLogRecordFactory(make_with_ids)


def write_ids(service_name: str) -> None:
    """Write the ids into the lines of Celery's own formats (launcher, spawned child)."""
    ids = _Ids(service_name)

    def fill(record: logging.LogRecord) -> bool:
        """Complete a record that an application's own factory has made."""
        if not hasattr(record, "otelTraceID"):
            context = trace.get_current_span().get_span_context()
            record.__dict__.update(ids.of(context))
        return True

    def change(logger: Any = None, **_: Any) -> None:
        for handler in logger.handlers:
            formatter = handler.formatter
            if isinstance(formatter, ColorFormatter):  # Celery's, not an application's
                handler.setFormatter(celery_private.with_prefix(formatter, IDS))
                handler.addFilter(fill)

    signals.after_setup_logger.connect(change, weak=False)
    signals.after_setup_task_logger.connect(change, weak=False)


class _Ids:
    """Makes the attributes of records; caches those of the last span.

    Args:
        service_name: Of the process.
    """

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name
        self._last = (trace.INVALID_SPAN_CONTEXT, self._make("0", "0", False))

    def of(self, context: trace.SpanContext) -> dict[str, object]:
        """Return the attributes of a record that is made inside a span."""
        known, ids = self._last
        if known is not context:
            if not context.is_valid:
                ids = self._make("0", "0", False)
            else:
                ids = self._make(
                    trace.format_trace_id(context.trace_id),
                    trace.format_span_id(context.span_id),
                    context.trace_flags.sampled,
                )
            self._last = (context, ids)
        return ids

    def _make(self, trace_id: str, span_id: str, is_sampled: bool) -> dict[str, object]:
        return {
            "otelServiceName": self._service_name,
            "otelTraceID": trace_id,
            "otelSpanID": span_id,
            "otelTraceSampled": is_sampled,
        }
