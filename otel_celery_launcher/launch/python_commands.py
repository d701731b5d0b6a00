# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Command lines of Python: their options, their program, and Celery's among them.

Runs in ``exec`` and at the start of each Python below it; imports nothing of
OpenTelemetry and nothing of Celery.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import ROLES, read_command_line

if TYPE_CHECKING:
    from collections.abc import Sequence

# The console script of this package, and how much of one tells whose it is.
SCRIPT = "otel-celery"
MODULE = "otel_celery_launcher"
SCRIPT_BYTES = 4096

# Options of Python that take a value, in their word or in the next.
_VALUE_OPTIONS = frozenset("WX")
_LONG_VALUE_OPTIONS = frozenset({"--check-hash-based-pycs"})

# Options that name the program: what follows is its own.
_PROGRAM_OPTIONS = frozenset("mc")


def is_python(program: str) -> bool:
    """Return whether a command is an interpreter of Python."""
    return Path(program).name.startswith(("python", "pypy"))


def python_options(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split the command line of a Python.

    Args:
        argv: The interpreter, its options, the program and its arguments.

    Returns:
        The letters of its options, ``m`` or ``c`` the last of them where there is one,
        and what follows: a script, module or code, and its arguments.
    """
    options = ""
    rest = list(argv[1:])
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word.startswith("--"):
            if word in _LONG_VALUE_OPTIONS:
                del rest[:1]
            continue
        for index, letter in enumerate(word[1:], start=2):
            options += letter
            if letter in _PROGRAM_OPTIONS:
                return options, [*filter(None, [word[index:]]), *rest]
            if letter in _VALUE_OPTIONS:
                if not word[index:]:
                    del rest[:1]
                break
    return options, rest


def as_ours(argv: Sequence[str]) -> list[str]:
    """Return the command line of otel-celery for one of Celery's.

    A script is replaced by the one beside it, so that Python's path begins as it would,
    and only where it is the one that installing Celery makes: a project's own ``celery``
    does more. ``-m celery`` becomes ``-m otel_celery_launcher``.

    Args:
        argv: The interpreter, its options, the program and its arguments.

    Returns:
        The command line; empty where the program is another, or otel-celery not there.
    """
    letters, program = python_options(argv)
    if not program or letters.endswith("c"):
        return []
    options, words = list(argv[1 : len(argv) - len(program)]), program[1:]
    if not letters.endswith("m"):
        script = Path(program[0]).with_name(SCRIPT)
        is_celery = script.is_file() and is_script_of_celery(Path(program[0]))
        return [argv[0], *options, str(script), *words] if is_celery else []
    if program[0] != "celery" or not options or not options[-1].endswith("m"):
        return []  # -mcelery, in one word, stays what it is
    if not Path(argv[0]).with_name(SCRIPT).is_file():
        return []
    last = options.pop()[:-1]  # -m, or with others before it: -um
    options += [last] if last != "-" else []
    return [argv[0], *options, "-m", MODULE, *words]


def is_script_of_celery(path: Path) -> bool:
    """Return whether a file is what pip makes of Celery's entry point."""
    if path.name != "celery":
        return False
    try:
        with path.open("rb") as file:
            return b"celery.__main__" in file.read(SCRIPT_BYTES)
    except OSError:
        return False


def words_for_ours(command: Sequence[str]) -> list[str] | None:
    """Return the arguments of otel-celery in a command line; None of any other."""
    if Path(command[0]).name == SCRIPT:
        return list(command[1:])
    if not is_python(command[0]):
        return None
    letters, program = python_options(command)
    if not program or letters.endswith("c"):
        return None
    name = program[0] if letters.endswith("m") else Path(program[0]).name
    return program[1:] if name in (SCRIPT, MODULE) else None


def as_doctor(ours: Sequence[str], role: str) -> list[str]:
    """Return the doctor's command line for one of otel-celery's.

    Args:
        ours: The command line of otel-celery.
        role: Whose settings are looked at where the command line does not say it.
    """
    words = words_for_ours(ours) or []
    line = read_command_line(words, os.environ)
    if line.workdir:  # where Celery would look for the application
        os.chdir(line.workdir)
    files = [word for path in line.env_files for word in ("--env-file", path)]
    pool = ["-P", line.pool] if line.pool else []
    return [
        *ours[: len(ours) - len(words)],
        *files,
        *("-A", line.app, "doctor", "--role", line.role or role),
        *pool,
    ]


def adopted(argv: Sequence[str], role: str, *, is_examined: bool = False) -> list[str]:
    """Return what to execute instead of a Celery that a traced program starts.

    A program that only starts Celery's command line has its tasks there: Procfile
    runners, supervisors, reloaders, ``dagster-celery``, a shell. What such a program
    starts beside, a beat for one, has its own role.

    Args:
        argv: ``sys.orig_argv`` of a process below ``exec``.
        role: Of ``exec --role``.
        is_examined: Whether the doctor is to look at it.

    Returns:
        The command line of otel-celery; empty where the process stays what it is.
    """
    ours = as_ours([sys.executable, *argv[1:]]) if role in ROLES else []
    if not ours:
        return []
    command = read_command_line(words_for_ours(ours) or (), {}).command
    if command not in (*ROLES, "multi"):
        return []
    return as_doctor(ours, role) if is_examined else ours
