# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Standard output of our own commands: in its own encoding, while it is read."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from otel_celery_launcher.errors import EXIT_FAILED, LauncherError

if TYPE_CHECKING:
    from collections.abc import Iterator


def prepare_output() -> None:
    """Replace characters that standard output's encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def write_line(line: str = "", out: TextIO | None = None) -> None:
    """Write a line to standard output, or to another file, at once.

    Raises:
        BrokenPipeError: Its reader has left.
        LauncherError: It cannot be written for another reason.
    """
    out = out or sys.stdout
    if out is None:  # closed at the start: the user wants no output
        return
    try:
        print(line, file=out, flush=True)
    except BrokenPipeError:
        raise
    except OSError as exc:
        _discard_output()
        raise LauncherError(
            f"standard output is {getattr(out, 'name', '?')!r}: expected"
            f" something that can be written ({exc.strerror})",
            "make room, or choose another place",
            EXIT_FAILED,
        ) from exc


def has_reader() -> bool:
    """Return False where standard output is a pipe that nobody reads any more."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # None, no file, closed
        return True
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(number, 0)  # errors are reported without being asked for
    return not any(
        event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)
    )


@contextlib.contextmanager
def until_reader_leaves() -> Iterator[None]:
    """End as other Unix tools do, by SIGPIPE, where the reader of our output has left."""
    try:
        yield
    except BrokenPipeError:
        _end_by_sigpipe()


def _end_by_sigpipe() -> NoReturn:
    _discard_output()  # else Python tries once more at its exit, and complains
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    raise SystemExit(EXIT_FAILED)


def _discard_output() -> None:
    """Let what is still in the buffer go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
