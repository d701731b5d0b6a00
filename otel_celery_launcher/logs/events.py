# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what instrumentations emit by OpenTelemetry's own logging API: events.

Runs in every process, in the thread that emits.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.redaction import frames_of
from otel_celery_launcher.ipc.log_frames import LogItem
from otel_celery_launcher.logs.reader import (
    clean,
    clean_body,
    exception_attributes,
    hide_exceptions,
)
from otel_celery_launcher.tasks.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_event(
    logger: str, fields: Mapping[str, Any], *, shows_exceptions: bool
) -> LogItem:
    """Return what leaves of an event.

    Args:
        logger: Name of its instrumentation scope.
        fields: Of the record; ``span`` is the context of its span.
        shows_exceptions: Whether messages of exceptions leave.
    """
    span = fields["span"]
    severity = fields["severity_number"]
    body = clean_body(fields["body"])
    given = dict(fields["attributes"] or {})
    attributes = {text_of(key): clean(value) for key, value in given.items()}
    if not shows_exceptions:
        attributes.pop("exception.message", None)
        if stack := attributes.pop("exception.stacktrace", None):
            attributes["exception.stacktrace"] = frames_of(str(stack))
    exc = fields["exception"]
    if isinstance(exc, BaseException):
        attributes |= exception_attributes(exc, shows_message=shows_exceptions)
    if not shows_exceptions:
        body = hide_exceptions(
            body, attributes, sys.exc_info()[1] if exc is None else exc
        )
    return LogItem(
        clean(str(logger)),
        int(fields["timestamp"] or fields["observed_timestamp"] or time.time_ns()),
        int(getattr(severity, "value", severity) or 0),
        clean(str(fields["severity_text"] or "")),
        body,
        span.trace_id,
        span.span_id,
        int(span.trace_flags),
        attributes,
        clean(str(fields["event_name"] or "")),
    )
