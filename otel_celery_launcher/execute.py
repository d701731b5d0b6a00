# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery exec -- COMMAND``: any Python program, traced from before its first import.

Replaces this process by the command, so process id, signals, standard streams and exit
status are the command's. Python finds ``startup/sitecustomize.py`` on its path and sets
up telemetry there (``hosted.py``). Imports nothing of OpenTelemetry.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher import hosted
from otel_celery_launcher.environ import load_env_files
from otel_celery_launcher.errors import (
    EXIT_CANNOT_EXECUTE,
    EXIT_NOT_FOUND,
    LauncherError,
)
from otel_celery_launcher.messages import say
from otel_celery_launcher.roles import DEFAULT_ROLE, GENERIC_MODULE_NAMES, app_name
from otel_celery_launcher.settings import prepare_environment

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

STARTUP = Path(__file__).parent / "startup"

# Programs that say nothing about the service; their folder does.
_GENERIC_PROGRAMS = GENERIC_MODULE_NAMES | {
    "",
    "manage",
    "wsgi",
    "asgi",
    "run",
    "server",
}


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
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(
    environ: MutableMapping[str, str],
    role: str,
    env_files: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run a Python program, traced: otel-celery exec -- uvicorn shop.web:app."""
    problems = load_env_files(environ, role=role, workdir=None, env_files=env_files)
    problems += prepare_environment(environ)
    name = Path(command[0]).name
    if name == "celery":
        problems.append(
            "exec runs programs that are not Celery's: write otel-celery in the place of"
            " celery, without exec"
        )
    for problem in problems:
        say(problem)
    if name != "otel-celery":  # which does all of it itself
        _prepare(environ, role, service_of(command))
    _replace_process(command, environ)


def main(
    arguments: Sequence[str],
    env_files: Sequence[str],
    environ: MutableMapping[str, str],
) -> NoReturn:
    """Run the command, or leave with the status that tells why not.

    Args:
        arguments: What follows ``exec``.
        env_files: Of ``--env-file`` before ``exec``.
        environ: Becomes the command's.
    """
    own = [word for path in env_files for word in ("--env-file", path)]
    execute.main([*own, *arguments], prog_name="otel-celery exec", obj=environ)


def service_of(command: Sequence[str]) -> str:
    """Return what a command tells about the service: ``shop`` of ``shop.web:app``."""
    for word in command[1:]:
        module, has_attribute, _ = word.partition(":")
        if has_attribute and module.replace(".", "").isidentifier():
            return app_name(module)
    program = Path(command[0]).stem
    is_python = program.startswith(("python", "pypy"))
    name = hosted.program_name(command) if is_python else program
    return Path.cwd().name if name in _GENERIC_PROGRAMS else name


def _prepare(environ: MutableMapping[str, str], role: str, service: str) -> None:
    """Tell the command's Python about us."""
    path = [str(STARTUP), environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each)
    environ[hosted.ROLE_VARIABLE] = role
    environ[hosted.APP_VARIABLE] = service
    environ.pop(hosted.PROGRAM_VARIABLE, None)  # exec below exec: a program of its own


def _replace_process(
    command: Sequence[str], environ: MutableMapping[str, str]
) -> NoReturn:
    name = command[0]
    found = name if os.sep in name else shutil.which(name, path=environ.get("PATH"))
    try:
        os.execve(found or name, list(command), dict(environ))
    except FileNotFoundError as exc:
        raise LauncherError(
            f"{name!r} is no command here: expected a program on PATH, or its path",
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
