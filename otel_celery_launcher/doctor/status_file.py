# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How a program below ``exec --doctor`` learns that a child process was examined.

The process that runs the checks, this one or a child, writes its exit status to one
file, whose name is in the environment. Runs in each Python below ``exec --doctor``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.ipc import inherited

if TYPE_CHECKING:
    from collections.abc import Mapping


def status_file(program: int) -> str:
    """Return the path of the file; the first process below ``exec --doctor`` makes it."""
    path = os.environ.get(inherited.EXAMINED)
    if not path:
        import tempfile  # an application that is not examined imports it itself

        number, path = tempfile.mkstemp(prefix=f"otel-celery-doctor-{program}-")
        os.close(number)
        os.environ[inherited.EXAMINED] = path
    return path


def note_examined(environ: Mapping[str, str], status: int) -> None:
    """Let the program above know that something below it was examined (doctor).

    Args:
        environ: Of this process.
        status: With which the examination ends.
    """
    path = environ.get(inherited.EXAMINED)
    if not path:
        return
    with contextlib.suppress(OSError):
        if is_of(os.getpid(), path):
            os.unlink(path)  # there is nobody above
            return
        with Path(path).open("a") as file:
            file.write(f"{status}\n")


def statuses(path: str) -> list[int]:
    """Return the statuses with which examinations below this process have ended."""
    try:
        return [int(line) for line in Path(path).read_text().split()]
    except (OSError, ValueError):
        return []


def is_of(process: int, path: str) -> bool:
    """Return whether that process has made the file."""
    return f"-{process}-" in Path(path).name


def remove(process: int, path: str) -> None:
    """Remove a file at the end of the process that has made it."""
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            os.unlink(path)
