# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery inject DIRECTORY``: a tree that traces programs by their environment alone.

Runs in a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher.errors import EXIT_OK, LauncherError
from otel_celery_launcher.ipc.tree import c_library
from otel_celery_launcher.settings.checks import printable, safe_repr

if TYPE_CHECKING:
    from collections.abc import Sequence

MEBIBYTE = 1024 * 1024

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@click.command(name="inject")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="VERSION",
    help="A Python that the tree is for, such as 3.11; may be repeated. This one if left out.",
)
@click.option(
    "--libc",
    "c_libraries",
    multiple=True,
    type=click.Choice(["glibc", "musl"]),
    help="The C library of the images; may be repeated. This system's if left out.",
)
@click.option(
    "--machine",
    type=click.Choice(["x86_64", "aarch64"]),
    help="The processor. This system's if left out.",
)
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with all wheels, instead of pip's index.",
)
@click.option(
    "--mount",
    metavar="PATH",
    help="Where programs find the tree, if not at DIRECTORY; for the variables that are shown.",
)
def inject(
    directory: Path,
    pythons: tuple[str, ...],
    c_libraries: tuple[str, ...],
    machine: str | None,
    wheels: Path | None,
    mount: str | None,
) -> None:
    """Write a tree that traces Celery by environment variables alone.

    DIRECTORY is new or empty. Programs whose PYTHONPATH names the tree need no change,
    and no package in their own environment.
    """
    from otel_celery_launcher.inject.tree import Tree, Wanted

    own = ".".join(map(str, sys.version_info[:2]))
    folder = directory.absolute().resolve()
    for path in (str(folder), mount or ""):
        if os.pathsep in path:
            raise LauncherError(
                f"the tree's path is {safe_repr(path)}: expected one without {os.pathsep!r},"
                " which separates the entries of PYTHONPATH",
                "name another directory",
            )
    # Leaves nothing behind: what is begun is removed on the way out.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    tree = Tree(
        folder,
        Wanted(
            pythons=[_checked(each) for each in dict.fromkeys(pythons or (own,))],
            c_libraries=tuple(dict.fromkeys(c_libraries)) or (c_library(),),
            machine=machine or os.uname().machine,
            wheels=None if wheels is None else wheels.absolute(),
        ),
    )
    tree.make()
    _report(tree.folder, tree.size(), tree.unchecked, mount or str(tree.folder))
    sys.exit(EXIT_OK)


def _checked(python: str) -> str:
    if python not in PYTHONS:
        raise LauncherError(
            f"--python is {python!r}: expected one of {', '.join(PYTHONS)}",
            "write it as 3.11",
        )
    return python


def _report(folder: Path, size: int, unchecked: Sequence[str], mount: str) -> None:
    path = printable(mount)
    lines = [f"{printable(str(folder))}: {size / MEBIBYTE:.0f} MiB"]
    lines += [
        f"Python {python} is not here, so its part was neither tried nor compiled"
        for python in unchecked
    ]
    lines += [
        "",
        "Set for each program, in its pod, unit or container:",
        "",
        f"  PYTHONPATH={path}        or, where its image or unit sets PYTHONPATH=/app:",
        f"  PYTHONPATH={path}:/app   what you set replaces what is there",
        "",
        "  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317",
        "  OTEL_CELERY_INJECT=python   for web servers and all other Python programs, too",
        "",
        f"Try it: PYTHONPATH={path} celery -A app worker",
    ]
    print("\n".join(lines))  # noqa: T201


def main(arguments: Sequence[str]) -> NoReturn:
    """Write a tree and leave with 0.

    Args:
        arguments: What follows ``inject``.

    Raises:
        LauncherError: The tree cannot be made.
    """
    inject.main(list(arguments), prog_name="otel-celery inject")
    raise AssertionError  # click has left
