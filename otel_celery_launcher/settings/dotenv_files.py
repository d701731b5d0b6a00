# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``.env`` files: which are read, in which order, and what wins.

Runs in the launcher before the settings are read. ``.env`` and ``.env.<role>`` in the
working directory are found without being asked for, so only their ``OTEL_*`` names are
taken: a launcher must not change the application's settings. A file given by
``--env-file`` (or ``OTEL_CELERY_ENV_FILE``) is loaded whole. The real environment takes
precedence over every file, and a later file over an earlier one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.ipc import inherited

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

# Files of --env-file, remembered for a re-exec (SIGHUP drops our own options).
ENV_FILE_VARIABLE = "OTEL_CELERY_ENV_FILE"


def load_env_files(
    environ: MutableMapping[str, str],
    *,
    role: str | None,
    workdir: str | None,
    env_files: Sequence[str],
    for_others: bool = False,
) -> list[str]:
    """Load the files into ``environ`` and return problems, one line each.

    Args:
        environ: Changed in place; names already in it are kept.
        role: Names ``.env.<role>``; None reads only ``env_files``.
        workdir: Where ``.env`` is looked for; None is the current directory.
        env_files: Files wanted whole, in order.
        for_others: Whether this process only starts the ones that will use them.

    Raises:
        LauncherError: A file of ``env_files`` cannot be read.
    """
    _forget_previous(environ)
    wanted = list(env_files) or _split_paths(environ.get(ENV_FILE_VARIABLE, ""))
    merged: dict[str, str] = {}
    problems: list[str] = []
    if role is not None:
        for name in (".env", f".env.{role}"):
            values, problem = _read_found(Path(workdir or ".") / name)
            merged.update(values)
            problems += problem
    for path in wanted:
        values, problem = _read_wanted(Path(path))
        merged.update(values)
        problems += problem
    reader = "*" if for_others else str(os.getpid())
    _put(environ, merged, wanted, reader)
    return problems


def _put(
    environ: MutableMapping[str, str],
    merged: Mapping[str, str],
    wanted: Sequence[str],
    reader: str,
) -> None:
    """Put what files have into the environment, and note what came from them."""
    loaded = {name: value for name, value in merged.items() if name not in environ}
    environ.update(loaded)
    if wanted:
        environ[ENV_FILE_VARIABLE] = os.pathsep.join(
            str(Path(path).absolute()) for path in wanted
        )
    if loaded:
        environ[inherited.LOADED] = f"{reader}:{','.join(sorted(loaded))}"


def _forget_previous(environ: MutableMapping[str, str]) -> None:
    """Drop what this process took from files before SIGHUP re-executed it."""
    pid, _, names = environ.pop(inherited.LOADED, "").partition(":")
    if pid in ("*", str(os.getpid())):
        for name in names.split(","):
            environ.pop(name, None)


def _split_paths(text: str) -> list[str]:
    return [path for path in text.split(os.pathsep) if path]


def _read_found(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read the ``OTEL_*`` names of a file that may be missing."""
    try:
        if not path.is_file():
            return {}, []
        values, problems = _parse(path)
    except (OSError, ValueError) as exc:
        return {}, [f"{path} cannot be read ({exc}): going on without it"]
    return {k: v for k, v in values.items() if k.startswith("OTEL_")}, problems


def _read_wanted(path: Path) -> tuple[dict[str, str], list[str]]:
    try:
        if not path.is_file():
            raise LauncherError(
                f"--env-file is {str(path)!r}: expected an existing file",
                f"create it or correct the path (looked in {Path.cwd()})",
            )
        return _parse(path)
    except (OSError, ValueError) as exc:
        raise LauncherError(
            f"--env-file is {str(path)!r}: expected a readable UTF-8 file ({exc})",
            "correct the file's permissions or encoding",
        ) from exc


def _parse(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return a file's variables, and a line for each statement that cannot be read."""
    from dotenv import dotenv_values  # most starts find no file

    logger, problems = logging.getLogger("dotenv.main"), _Problems(path)
    logger.addFilter(problems.take)
    try:
        values = {
            name: value
            for name, value in dotenv_values(path, encoding="utf-8").items()
            if value is not None
        }
    finally:
        logger.removeFilter(problems.take)
    for name, value in values.items():
        if "=" in name or "\0" in name + value:
            raise ValueError(f"no environment can hold its variable {name!r}")
    return values, problems.lines


class _Problems:
    """Collects log records of python-dotenv on a file, which name only the statement.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[str] = []

    def take(self, record: logging.LogRecord) -> bool:
        """Keep a record as a line of ours (python-dotenv 0.19 to 1.2)."""
        where = record.getMessage()
        if isinstance(record.args, tuple) and record.args:
            where = f"line {record.args[0]}"
        self.lines.append(
            f"{self._path}, {where}: expected NAME=value; going on without that line"
        )
        return False
