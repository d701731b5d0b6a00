# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery spool [--send] DIRECTORY``: what waits in a spool directory.

Runs in a process of its own; imports neither Celery nor the application.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher.errors import EXIT_FAILED, EXIT_OK, LauncherError
from otel_celery_launcher.exporter_process.spool import (
    SpoolError,
    check_directory,
    found_in,
    waiting_in,
)
from otel_celery_launcher.settings.dotenv_files import load_env_files

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

# How long `--send` goes on without anything being taken.
WAIT_SECONDS = 30.0


@click.command(name="spool")
@click.argument("directory", default="")
@click.option("--send", "sends", is_flag=True, help="Send what has no owner.")
@click.option(
    "--wait",
    default=WAIT_SECONDS,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long --send goes on while the collector takes nothing.",
)
@click.pass_obj
def spool(
    given: tuple[MutableMapping[str, str], Sequence[str]],
    directory: str,
    sends: bool,
    wait: float,
) -> None:
    """List what waits in a spool directory, by file and exporter.

    DIRECTORY is the value of OTEL_CELERY_SPOOL_DIRECTORY unless it is given. The exit
    status is 0 if nothing waits without an owner, else 1.
    """
    environ, env_files = given
    load_env_files(environ, role="worker", workdir=None, env_files=env_files)
    directory = directory or environ.get("OTEL_CELERY_SPOOL_DIRECTORY", "")
    if not Path(directory).is_dir() or not directory:
        raise LauncherError(
            f"spool has no directory: {directory!r} is none",
            "set OTEL_CELERY_SPOOL_DIRECTORY, or name the directory",
        )
    try:
        check_directory(Path(directory))
    except SpoolError as exc:
        raise LauncherError(str(exc), "correct its owner or its mode") from exc
    _list(Path(directory))
    waiting = waiting_in(Path(directory))
    if sends and waiting:
        from otel_celery_launcher.spool.sending import send

        waiting = send(directory, environ, wait)
    sys.exit(EXIT_FAILED if waiting else EXIT_OK)


def _list(directory: Path) -> None:
    """Print a line for each file."""
    has_orphan = False
    for path, is_in_use, waiting, problem in found_in(directory):
        state = "in use" if is_in_use else "no owner"
        if problem:
            print(f"{path.name}  {state}  cannot be read: {problem}")  # noqa: T201
            continue
        counts = ", ".join(f"{count} for {name}" for name, count in waiting.items())
        print(f"{path.name}  {state}  spans: {counts or 0}")  # noqa: T201
        has_orphan = has_orphan or (not is_in_use and any(waiting.values()))
    if not has_orphan:
        print("nothing waits without an owner")  # noqa: T201


def main(
    words: Sequence[str],
    env_files: Sequence[str],
    environ: MutableMapping[str, str],
) -> NoReturn:
    """List, or send, and leave with 0 or 1.

    Args:
        words: What follows ``spool``.
        env_files: Of ``--env-file`` before it.
        environ: Gets what ``.env`` files have.

    Raises:
        LauncherError: No directory is named, or it is not private.
    """
    spool.main(list(words), prog_name="otel-celery spool", obj=(environ, env_files))
