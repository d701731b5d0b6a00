"""No message of an exception leaves, whatever it looks like."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.delivery import redaction

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2"
FAKE_FRAME = f'\n  File "{SECRET}.py", line 1, in {SECRET}\n    {SECRET}()\n'
FAKE_TRACEBACK = f"\nTraceback (most recent call last):{FAKE_FRAME}ValueError: {SECRET}"


def fails(message: str) -> None:
    raise ValueError(message)


def fails_because_of(message: str) -> None:
    try:
        fails(message)
    except ValueError as exc:
        raise RuntimeError(f"outer {message}") from exc


def fails_with_a_note(message: str) -> None:
    error = ValueError("short")
    error.__notes__ = [message]
    raise error


@pytest.mark.parametrize("fail", [fails, fails_because_of, fails_with_a_note])
@pytest.mark.parametrize(
    "message",
    [
        SECRET,
        FAKE_FRAME,
        FAKE_TRACEBACK,
        f"{FAKE_TRACEBACK}{FAKE_FRAME}",
        f"ValueError: {FAKE_TRACEBACK}\nValueError: {SECRET}",
        "",
    ],
)
def test_a_message_that_looks_like_a_traceback_stays_here(
    fail: Callable[[str], None], message: str
) -> None:
    """The stack trace keeps files, lines and functions of the code that has failed."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        fail(message)
    exc = caught.value
    event = {
        "exception.type": type(exc).__name__,
        "exception.message": str(exc),
        "exception.stacktrace": "".join(traceback.format_exception(exc)),
    }
    shown = redaction._redacted(event)
    assert SECRET not in str(shown)
    frames = shown["exception.stacktrace"].splitlines()
    assert frames
    assert all(
        re.fullmatch(r' +File "[^"]+test_redaction.py", line \d+, in \w+', each)
        for each in frames
    )
