# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that start workers by executing Python anew: ``multi`` and ``worker --detach``.

``multi`` executes ``EXECUTABLE -m celery … worker --detach``, and that executes
``EXECUTABLE -m celery … worker`` (celery ``apps/multi.py``, ``bin/worker.py``; 5.3 to
5.7). An in-process launcher is lost twice. So this program's own path is given to Celery's
``--executable``, and the ``-m celery`` that comes back is dropped.

Runs in the launcher, before Celery is imported.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTION = "--executable"


def with_executable(
    arguments: Sequence[str], command: str, program: str
) -> tuple[list[str], str | None]:
    """Return arguments that start workers with this program, and what to say.

    An executable that the user names is kept.

    Args:
        arguments: Celery's arguments.
        command: ``multi`` or ``worker``.
        program: Path of this program.
    """
    given = [word for word in arguments if word.partition("=")[0] == OPTION]
    if given:
        return list(arguments), _note(given[0], arguments)
    if not os.access(program, os.X_OK):
        return list(arguments), (
            f"this program's path is {program!r}: expected an executable file; workers"
            " start as plain Celery; start otel-celery by its path"
        )
    # multi puts its words together and splits them as a shell does.
    value = shlex.quote(program) if command == "multi" else program
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], f"{OPTION}={value}", *arguments[end:]], None


def _note(option: str, arguments: Sequence[str]) -> str | None:
    value = option.partition("=")[2]
    if not value:
        following = list(arguments)[list(arguments).index(option) + 1 :]
        value = following[0] if following else ""
    if Path(value).name.startswith("otel-celery"):
        return None
    return (
        f"{OPTION} is {value!r}: expected otel-celery; workers start as plain Celery;"
        f" leave {OPTION} out"
    )
