# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Trace and span ids in log records, and in the lines that Celery writes.

On every record as ``otelTraceID``, ``otelSpanID``, ``otelTraceSampled`` and
``otelServiceName``, the names of OpenTelemetry's own logging instrumentation, so that an
application's formats and JSON formatters find them. In the text of Celery's own formats
where ``OTEL_PYTHON_LOG_CORRELATION=true``.

Runs in every process of the worker, in the thread that logs.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import signals
from celery.utils.log import ColorFormatter
from opentelemetry import trace

from otel_celery_launcher import _compat_celery

IDS = "[trace_id=%(otelTraceID)s span_id=%(otelSpanID)s] "


def add_ids(service_name: str) -> None:
    """Put the ids on every log record from here on (launcher, spawned child)."""
    make = logging.getLogRecordFactory()

    def make_with_ids(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        context = trace.get_current_span().get_span_context()
        _put(record, service_name, context if context.is_valid else None)
        return record

    logging.setLogRecordFactory(make_with_ids)


def write_ids(service_name: str) -> None:
    """Write the ids into the lines of Celery's own formats (launcher, spawned child)."""

    def fill(record: logging.LogRecord) -> bool:
        """Complete a record that another factory has made."""
        if not hasattr(record, "otelTraceID"):
            _put(record, service_name, None)
        return True

    def change(logger: Any = None, **_: Any) -> None:
        for handler in logger.handlers:
            formatter = handler.formatter
            if isinstance(formatter, ColorFormatter):  # Celery's, not an application's
                handler.setFormatter(_compat_celery.with_prefix(formatter, IDS))
                handler.addFilter(fill)

    signals.after_setup_logger.connect(change, weak=False)
    signals.after_setup_task_logger.connect(change, weak=False)


def _put(
    record: logging.LogRecord, service_name: str, context: trace.SpanContext | None
) -> None:
    record.otelServiceName = service_name
    record.otelTraceID = "0" if context is None else f"{context.trace_id:032x}"
    record.otelSpanID = "0" if context is None else f"{context.span_id:016x}"
    record.otelTraceSampled = context is not None and context.trace_flags.sampled
