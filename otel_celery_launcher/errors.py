# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Exit statuses, the error that is shown to the user, and reports of our own failures.

LauncherError           a request that cannot be carried out; printed by ``cli.main``

Everything else keeps Celery's exit status: ``report_failure`` prints one line about a
failure in our own code, and Celery continues without that part. This module imports
next to nothing, because it is needed when an import has failed.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from otel_celery_launcher import __version__, messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# Statuses of sysexits.h: systemd's RestartPreventExitStatus=78 stops restart loops.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BUG = 70
EXIT_CONFIG = 78
EXIT_CANNOT_EXECUTE = 126  # as a shell has it
EXIT_NOT_FOUND = 127

# Limit for an exception's message in a line: some messages contain whole documents.
MESSAGE_CHARACTERS = 300


# What third-party data (a message, an attribute) can raise while it is read or encoded.
# Never a soft time limit, which can be raised at any bytecode.
MALFORMED_ERRORS = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class LauncherError(Exception):
    """A request the launcher cannot carry out; the user can mend it.

    Args:
        message: Name, value, where it came from: what was expected. One sentence.
        hint: The next thing to type or to change.
        exit_status: Status of the process, one of this module's constants.
    """

    def __init__(self, message: str, hint: str, exit_status: int = EXIT_CONFIG) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status


@contextmanager
def guarded(consequence: str) -> Iterator[None]:
    """Report exceptions of our own code; only a ``LauncherError`` propagates.

    Args:
        consequence: What happens after a failure: ``Celery runs untraced``.
    """
    try:
        yield
    except LauncherError:
        raise
    except Exception:  # noqa: BLE001 - the boundary: it stops no program of the user's
        report_failure(consequence)


def report_failure(consequence: str) -> None:
    """Print one line about a failure of our code; call this in the ``except`` block.

    The whole traceback follows with OTEL_LOG_LEVEL=debug.

    Args:
        consequence: What happens now: ``Celery runs untraced``.
    """
    exc = sys.exc_info()[1]
    if exc is None:
        return
    what = describe_failure(exc)
    if isinstance(exc, (OSError, MemoryError)):
        messages.say(
            f"the system refuses what tracing needs: {consequence}. {what};"
            " compare the limits of this process: ulimit -a"
        )
    else:
        messages.say(
            f"a bug in otel-celery {__version__}: {consequence}. Please report it: {what}"
        )
    if messages.is_debugging():
        messages.write("".join(traceback.format_exception(exc)))


def describe_failure(exc: BaseException) -> str:
    """Return an exception's type, message, file, line and function, on one line."""
    return f"{_description(exc)}{_place(exc.__traceback__)}"


def describe_failure_briefly(exc: BaseException) -> str:
    """Return type, place, then message, for texts whose end may be cut off."""
    place = _place(exc.__traceback__).strip(" ()")
    parts = place.rpartition(":")
    path = "/".join(parts[0].split("/")[-3:])
    return f"{type(exc).__name__} at {path}:{parts[2]}: {_message(exc)}"


def _description(exc: BaseException) -> str:
    """Return an exception's type and message, on one line of bounded length."""
    return f"{type(exc).__name__}: {_message(exc)}"


def _message(exc: BaseException) -> str:
    try:
        return " ".join(str(exc).split())[:MESSAGE_CHARACTERS]
    except Exception:  # noqa: BLE001 - the boundary: an exception of any library
        return "(its message cannot be read)"


def _place(trace: TracebackType | None) -> str:
    """Return the line that raised. Opens no file: too many may be open already."""
    frames = list(traceback.walk_tb(trace))
    if not frames:
        return ""
    frame, line = frames[-1]
    code = frame.f_code
    return f" ({code.co_filename}:{line} in {code.co_name})"
