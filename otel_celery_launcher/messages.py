# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Output of the launcher: on standard error, or in Celery's log if nobody reads that.

A detached process has /dev/null for standard error. Runs in any process; never raises.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.terminal import has_colour

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("otel_celery_launcher")

# The form of what is written to standard error: text, or JSON with an object a line.
FORMAT_VARIABLE = "OTEL_CELERY_LOG_FORMAT"


def say(
    line: str, level: int = logging.WARNING, fields: Mapping[str, Any] | None = None
) -> None:
    """Write a line of ours to standard error.

    Args:
        line: The text.
        level: The severity, as in ``logging``.
        fields: The line's content in a machine-readable form; only written in JSON.
    """
    if os.environ.get(FORMAT_VARIABLE, "").strip().lower() == "json":
        write(_as_json(line, level, fields or {}))
    else:
        write(f"{_prefix(level)} {line}\n")


def _as_json(line: str, level: int, fields: Mapping[str, Any]) -> str:
    import json  # by most starts not needed
    from datetime import datetime, timezone

    record = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": logging.getLevelName(level),
        "logger": logger.name,
        "message": f"otel-celery: {line}",
        **fields,
    }
    return json.dumps(record, default=str) + "\n"


def _prefix(level: int) -> str:
    """Return what begins each line; in colour on a terminal."""
    text = "otel-celery:"
    stream = sys.stderr
    with contextlib.suppress(Exception):  # of the application's making
        if has_colour(stream):
            colour = 33 if level >= logging.WARNING else 32
            return f"\x1b[{colour}m{text}\x1b[0m"
    return text


def write(text: str) -> None:
    """Write to standard error, which may be closed, full, or a broken pipe."""
    if sys.stderr is None:  # closed at the start; `print` would take standard output
        return
    with contextlib.suppress(Exception):  # an application may have put anything there
        sys.stderr.write(text)
        sys.stderr.flush()


def is_debugging() -> bool:
    """Return whether OTEL_LOG_LEVEL asks for everything there is to say."""
    return os.environ.get("OTEL_LOG_LEVEL", "").strip().lower() == "debug"


def is_heard() -> bool:
    """Return whether standard error leads anywhere."""
    if sys.__stderr__ is None:  # closed at the start; the number may be a file's by now
        return False
    try:
        return os.fstat(2).st_rdev != os.stat(os.devnull).st_rdev
    except OSError:  # closed since
        return False


def log(line: str, level: int = logging.WARNING) -> None:
    """Write a line to Celery's log, at any level that it is set to."""
    # An application's dictConfig disables the loggers that exist by default.
    logger.disabled = False
    logger.handle(
        logger.makeRecord(
            logger.name, level, __file__, 0, "otel-celery: %s", (line,), None
        )
    )


# Whether each inject and extract is a line (OTEL_LOG_LEVEL=debug).
_shows_contexts = False


def show_contexts() -> None:
    """Show each trace context from here on (launcher, spawned child)."""
    global _shows_contexts
    _shows_contexts = True


def shows_contexts() -> bool:
    """Return whether each trace context is shown."""
    return _shows_contexts


def show_context(what: str, carrier: Mapping[str, object]) -> None:
    """Log an injected or extracted context, if ``show_contexts`` was called."""
    if not _shows_contexts:
        return
    pairs = " ".join(f"{key}={value}" for key, value in carrier.items())
    line = f"[celery] {what} {pairs or '(none)'}"
    if logging.getLogger().handlers:
        log(line, logging.DEBUG)
    else:
        say(line)
