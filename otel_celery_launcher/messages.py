# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the launcher says: on standard error, or in Celery's log where nobody reads that.

A detached process has /dev/null for standard error. Runs in any process; never raises.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("otel_celery_launcher")


def say(line: str) -> None:
    """Write a line to standard error, which may be closed, full, or a broken pipe."""
    with contextlib.suppress(OSError, ValueError):
        print(f"otel-celery: {line}", file=sys.stderr, flush=True)  # noqa: T201


def is_heard() -> bool:
    """Return whether standard error leads anywhere."""
    if sys.__stderr__ is None:  # closed at the start; the number may be a file's by now
        return False
    try:
        return os.fstat(2).st_rdev != os.stat(os.devnull).st_rdev
    except OSError:  # closed since
        return False


def log(line: str, level: int = logging.WARNING) -> None:
    """Write a line to Celery's log, whatever its level is set to."""
    # An application's dictConfig disables the loggers that exist by default.
    logger.disabled = False
    logger.handle(
        logger.makeRecord(
            logger.name, level, __file__, 0, "otel-celery: %s", (line,), None
        )
    )


class _Debug:
    """Whether each inject and extract is a line (OTEL_LOG_LEVEL=debug)."""

    is_on = False


def show_contexts() -> None:
    """Show each trace context from here on (launcher, spawned child)."""
    _Debug.is_on = True


def shows_contexts() -> bool:
    """Return whether each trace context is shown."""
    return _Debug.is_on


def show_context(what: str, carrier: Mapping[str, object]) -> None:
    """Write one line about what was injected or extracted, if that is wanted."""
    if not _Debug.is_on:
        return
    shown = " ".join(f"{key}={value}" for key, value in carrier.items())
    line = f"[celery] {what} {shown or '(none)'}"
    if logging.getLogger().handlers:
        log(line, logging.DEBUG)
    else:
        say(line)
