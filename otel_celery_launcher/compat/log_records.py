# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The record that the SDK's exporters of logs take. Its form has changed three times.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_log_records.py``.
Verified with SDK 1.30 to 1.45: a ``LogData`` with ids (to 1.34), a ``LogData`` with a
context (to 1.38), a ``ReadableLogRecord`` (from 1.39). Runs where logs are exported.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_sdk: Any = sdk_logs
_readable_log_record: Any = getattr(_sdk, "ReadableLogRecord", None)


def new_record(item: Any, resource: Resource) -> Any:
    """Return what an exporter of logs takes.

    Args:
        item: The record: ``ipc.log_frames.LogItem``.
        resource: Of the process that made it.

    Raises:
        ValueError: It has a severity that there is not.
    """
    fields: dict[str, Any] = {
        "timestamp": item.time,
        "observed_timestamp": item.time,
        "severity_text": item.severity_text,
        "severity_number": SeverityNumber(item.severity),
        "body": item.body,
        "attributes": item.attributes,
    }
    if item.event and _has("event_name"):
        fields["event_name"] = item.event
    elif item.event:
        fields["attributes"] = {**item.attributes, "event.name": item.event}
    flags = trace.TraceFlags(item.trace_flags)
    if _has("context"):
        context = trace.SpanContext(item.trace_id, item.span_id, False, flags)
        span = trace.NonRecordingSpan(context)
        fields["context"] = trace.set_span_in_context(span, Context())
    else:
        fields |= {"trace_id": item.trace_id, "span_id": item.span_id}
        fields["trace_flags"] = flags
    scope = _scope(item.logger)
    if _readable_log_record is not None:
        from opentelemetry._logs import LogRecord

        return _readable_log_record(LogRecord(**fields), resource, scope)
    return _sdk.LogData(_sdk.LogRecord(**fields, resource=resource), scope)


def make_queue(exporter: Any) -> Any:
    """Return the SDK's queue and thread before an exporter."""
    from opentelemetry.sdk._logs import export

    return export.BatchLogRecordProcessor(exporter)


def put(queue: Any, record: Any) -> None:
    """Put a record of ``new_record`` into such a queue.

    ``on_emit`` reads of what it takes what a ``ReadableLogRecord`` has, too.
    """
    emit = getattr(queue, "on_emit", None) or queue.emit
    emit(record)


@lru_cache(maxsize=8)
def _has(field: str) -> bool:
    """Return whether the record has a field."""
    if _readable_log_record is not None:
        return True
    return field in inspect.signature(_sdk.LogRecord.__init__).parameters


@lru_cache(maxsize=1024)
def _scope(name: str) -> InstrumentationScope:
    return InstrumentationScope(name)
