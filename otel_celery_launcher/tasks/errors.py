# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Errors on spans, in one form: status, ``error.type``, the exception as an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace.status import Status, StatusCode

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def record_error(span: Span, exc: BaseException) -> None:
    """Mark a span as failed with an exception."""
    if not span.is_recording():
        return
    kind = type(exc)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.record_exception(exc)
    span.set_status(Status(StatusCode.ERROR, str(exc)))
