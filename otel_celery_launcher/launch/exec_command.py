# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery exec -- COMMAND``: any Python program, traced from before its first import.

Replaces this process by the command, so process id, signals, standard streams and exit
status are the command's. Python finds ``startup/sitecustomize.py`` on its path and sets
up telemetry there (``launch/program.py``). Imports nothing of OpenTelemetry.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from otel_celery_launcher.command_line import (
    CELERY_ROLES,
    DEFAULT_ROLE,
    GENERIC_MODULE_NAMES,
    app_name,
)
from otel_celery_launcher.errors import (
    EXIT_CANNOT_EXECUTE,
    EXIT_NOT_FOUND,
    LauncherError,
)
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.launch.program import program_name
from otel_celery_launcher.launch.python_commands import (
    as_doctor,
    as_ours,
    is_python,
    python_options,
    words_for_ours,
)
from otel_celery_launcher.messages import say
from otel_celery_launcher.settings.corrections import prepare_environment
from otel_celery_launcher.settings.dotenv_files import load_env_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

STARTUP = Path(__file__).parent.parent / "startup"

# With -I and -E Python does not read PYTHONPATH, with -S it runs no sitecustomize.
_ISOLATING_OPTIONS = frozenset("IES")

# The kernel reads so much of a script's first line (linux/binfmts.h, BINPRM_BUF_SIZE).
_FIRST_LINE_BYTES = 256

# Programs that say nothing about the service; their folder does.
_GENERIC_PROGRAMS = GENERIC_MODULE_NAMES | {
    "",
    "manage",
    "wsgi",
    "asgi",
    "run",
    "server",
}


class Given(NamedTuple):
    """What the command receives besides its arguments.

    Attributes:
        environ: The environment, which the program gets.
        examine: Runs the doctor for a role and a service name: prints its findings and
            returns the exit status.
    """

    environ: MutableMapping[str, str]
    examine: Callable[[str, str], int]


@click.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--role",
    default=DEFAULT_ROLE,
    show_default=True,
    metavar="ROLE",
    help="What the program is, such as web; worker and beat only where it runs Celery's.",
)
@click.option(
    "--env-file",
    "env_files",
    multiple=True,
    metavar="FILE",
    help="Load a file of variables whole; may be repeated.",
)
@click.option(
    "--doctor",
    "is_examined",
    is_flag=True,
    help="Run the program up to the start of its worker or beat, and examine that.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(
    given: Given,
    role: str,
    env_files: tuple[str, ...],
    is_examined: bool,
    command: tuple[str, ...],
) -> None:
    """Run a Python program, traced: otel-celery exec -- uvicorn shop.web:app."""
    environ = given.environ
    problems = load_env_files(environ, role=role, workdir=None, env_files=env_files)
    problems += prepare_environment(environ)
    command = _ours(command, environ)
    is_ours = words_for_ours(command) is not None
    if is_examined and is_ours:
        _replace_process(as_doctor(command, role), environ)
    if is_examined and role not in CELERY_ROLES:  # it would serve, and not end
        sys.exit(given.examine(role, service_of(command)))
    if is_examined:
        environ[inherited.DOCTOR] = "1"
    problems += _untraced(command, environ)
    for problem in problems:
        say(problem)
    if not is_ours:  # which does all of it itself
        _prepare(environ, role, service_of(command))
    _replace_process(command, environ)


def main(
    arguments: Sequence[str],
    env_files: Sequence[str],
    given: Given,
) -> NoReturn:
    """Run the command, or leave with the status that tells why not.

    Args:
        arguments: What follows ``exec``.
        env_files: Of ``--env-file`` before ``exec``.
        given: The environment, and the doctor.
    """
    own = [word for path in env_files for word in ("--env-file", path)]
    execute.main([*own, *arguments], prog_name="otel-celery exec", obj=given)


def service_of(command: Sequence[str]) -> str:
    """Return what a command tells about the service: ``shop`` of ``shop.web:app``."""
    for word in command[1:]:
        module, has_attribute, _ = word.partition(":")
        if has_attribute and module.replace(".", "").isidentifier():
            return app_name(module)
    is_interpreter = is_python(command[0])
    name = program_name(command) if is_interpreter else Path(command[0]).stem
    return Path.cwd().name if name in _GENERIC_PROGRAMS else name


def _ours(command: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return otel-celery's command line for one of Celery's; any other as it is."""
    if is_python(command[0]):
        return tuple(as_ours([_find(command[0], environ), *command[1:]])) or command
    if Path(command[0]).name != "celery":
        return command
    path = _find(command[0], environ)
    ours = as_ours([sys.executable, path, *command[1:]])
    return tuple(ours[1:]) or command  # by its own first line, its own interpreter


def _untraced(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return a line where Python's options keep our start-up code out."""
    words = command if is_python(command[0]) else _interpreter_of(command[0], environ)
    letters = python_options(words)[0] if words else ""
    skipping = [f"-{letter}" for letter in letters if letter in _ISOLATING_OPTIONS]
    if not skipping:
        return []
    return [
        f"Python is started with {' '.join(skipping)}, which skips otel-celery's start-up"
        " code: the program runs untraced; drop the option, or call"
        " otel_celery_launcher.setup() at the start of the program"
    ]


def _interpreter_of(name: str, environ: Mapping[str, str]) -> list[str]:
    """Return the Python command line that a script's first line names, if it does."""
    try:
        with open(_find(name, environ), "rb") as file:
            first = file.readline(_FIRST_LINE_BYTES)
    except OSError:  # said when it cannot be executed either
        return []
    words = first[2:].decode(errors="replace").split() if first[:2] == b"#!" else []
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if word != "-S"]
    return words if words and is_python(words[0]) else []


def _prepare(environ: MutableMapping[str, str], role: str, service: str) -> None:
    """Tell the command's Python about us."""
    path = [str(STARTUP), environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each)
    environ[inherited.EXEC_ROLE] = role
    environ[inherited.EXEC_APP] = service
    environ.pop(inherited.PROGRAM, None)  # exec below exec: a program of its own


def _find(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of a command, or its name where it is not on ``PATH``."""
    if os.sep in name:
        return name
    return shutil.which(name, path=environ.get("PATH")) or name


def _replace_process(
    command: Sequence[str], environ: MutableMapping[str, str]
) -> NoReturn:
    name = command[0]
    try:
        os.execve(_find(name, environ), list(command), dict(environ))
    except FileNotFoundError as exc:
        raise LauncherError(
            f"command not found: {name!r}: expected a program on PATH, or its path",
            "install it, or correct it",
            EXIT_NOT_FOUND,
        ) from exc
    except OSError as exc:
        raise LauncherError(
            f"{name!r} cannot be executed ({exc.strerror}): expected an executable"
            " program",
            f"chmod +x it, or write: otel-celery exec -- python {name}",
            EXIT_CANNOT_EXECUTE,
        ) from exc
