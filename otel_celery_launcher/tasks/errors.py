# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Errors on spans, in one form: status, ``error.type``, the exception as an event.

Also reads the text of third-party objects, whose ``__str__`` may raise: such an
exception would otherwise hide the application's error.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded
from opentelemetry.trace.status import Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span


def text_of(value: object) -> str:
    """Return an object's text, or a note on the exception that its ``__str__`` raises.

    Raises:
        SoftTimeLimitExceeded: The task's time limit was reached meanwhile.
    """
    return _asked(str, value)


def record_error(span: Span, exc: BaseException) -> None:
    """Mark a span as failed with an exception."""
    if not span.is_recording():
        return
    name = error_type_of(exc)
    text = text_of(exc)
    span.set_attribute("error.type", name)
    # As Span.record_exception has it, which asks the exception for its text again.
    span.add_event(
        "exception",
        {
            "exception.type": name,
            "exception.message": text,
            "exception.stacktrace": stacktrace_of(exc),
            "exception.escaped": "False",
        },
    )
    span.set_status(Status(StatusCode.ERROR, text))


def error_type_of(exc: BaseException) -> str:
    """Return ``error.type`` of an exception: its class, with its module."""
    kind = type(exc)
    is_builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"


def stacktrace_of(exc: BaseException) -> str:
    """Return the traceback of an exception, as Python prints it."""
    return _asked(_stacktrace, exc)


def _stacktrace(exc: BaseException) -> str:
    return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))


def _asked(ask: Callable[[Any], str], value: object) -> str:
    try:
        text = ask(value)
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - code of the application raises anything
        return f"<{type(value).__qualname__}: its text raises {type(exc).__qualname__}>"
    # A subclass of str may have methods of its own.
    return text if type(text) is str else str.__str__(text)
