# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery healthcheck [FILE]``: a probe that needs no shell and no broker.

Looks at the file that a worker touches (``launch/health_file.py``). Runs in a process of its own,
in the worker's container; imports neither Celery nor OpenTelemetry.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher.errors import EXIT_FAILED, EXIT_OK, LauncherError
from otel_celery_launcher.messages import say
from otel_celery_launcher.settings.dotenv_files import load_env_files

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

# Fifteen times the interval in which the file is touched: a busy main process may be
# late by seconds, and a worker that has lost its broker is by more.
MAX_AGE_SECONDS = 30.0


@click.command(name="healthcheck")
@click.argument("file", default="")
@click.option(
    "--max-age",
    "max_age",
    default=MAX_AGE_SECONDS,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How old the file may be.",
)
@click.pass_obj
def healthcheck(
    given: tuple[MutableMapping[str, str], Sequence[str]], file: str, max_age: float
) -> None:
    """Check with the exit status whether a worker is healthy: 0 if it is, 1 if not.

    FILE is what OTEL_CELERY_HEALTH_FILE is in the worker, and that variable's value
    unless it is given.
    """
    environ, env_files = given
    load_env_files(environ, role="worker", workdir=None, env_files=env_files)
    template = file or environ.get("OTEL_CELERY_HEALTH_FILE", "")
    if not template:
        raise LauncherError(
            "healthcheck has no file: expected the one that the worker touches",
            "set OTEL_CELERY_HEALTH_FILE for worker and probe alike, or name the file",
        )
    # "%n" and its like stand for the node's name. A worker that was killed has left its
    # file, so one that is new is enough: to probe one of several workers name its file.
    paths = glob.glob(re.sub("%[a-zA-Z]", "*", template)) or [template]
    newest = max(paths, key=_touched)
    sys.exit(EXIT_OK if _is_new(newest, max_age) else EXIT_FAILED)


def _touched(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _is_new(path: str, max_age: float) -> bool:
    """Return whether a file was touched of late, and say where not."""
    try:
        age = time.time() - os.stat(path).st_mtime
    except OSError as exc:
        say(f"the worker is not ready, or has ended: {path}: {exc.strerror}")
        return False
    if age > max_age:
        say(
            f"the worker is not healthy: it has not touched {path} for {age:.0f} s; it"
            " hangs, or has lost its broker"
        )
        return False
    return True


def main(
    arguments: Sequence[str],
    env_files: Sequence[str],
    environ: MutableMapping[str, str],
) -> NoReturn:
    """Look at the file and leave with 0 or 1.

    Args:
        arguments: What follows ``healthcheck``.
        env_files: Of ``--env-file`` before it.
        environ: Gets what ``.env`` files have.

    Raises:
        LauncherError: No file is named.
    """
    healthcheck.main(
        list(arguments), prog_name="otel-celery healthcheck", obj=(environ, env_files)
    )
