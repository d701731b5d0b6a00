# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A program that is traced by its environment alone: ``PYTHONPATH`` names an injected tree.

Runs at the very start of each such process (``inject/at_start.py``), before the program's
first import. A command of Celery's becomes the tree's ``otel-celery`` by ``exec``, so that
all is as if that had been written. A program that starts Celery itself is set up in its
process, as below ``otel-celery exec``, and so is any other where that is asked.

What a tree has for each Python (``inject/tree.py`` makes it):

    launcher/               this package; before all else
    sdk/                    OpenTelemetry's API and SDK
    conventions/            its semantic conventions: names only
    instrumentations/       what contrib instruments libraries with
    packages/               further pure-Python packages; behind all else
    exporter-LIBC-MACHINE/  gRPC, protobuf, exporters: for the exporter process alone
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import (
    CELERY_ROLES,
    DEFAULT_ROLE,
    read_command_line,
)
from otel_celery_launcher.errors import LauncherError, guarded, report_failure
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.tree import exporter_folder
from otel_celery_launcher.launch import program
from otel_celery_launcher.launch.python_commands import (
    SCRIPT,
    is_script_of_celery,
    python_options,
    words_for_ours,
)
from otel_celery_launcher.messages import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNTRACED = program.UNTRACED

CHOICE = "OTEL_CELERY_INJECT"

# The lowest releases that this package works with: pyproject.toml.
LOWEST_SDK = (1, 30)
LOWEST_CELERY = (5, 3)

# What watches other programs, and what installs packages: it would find ours.
_NOT_PROGRAMS = re.compile(r"circusd|honcho|supervisord|pip[\d.]*|poetry|pipx|uv")

_SDK = ("opentelemetry-api", "opentelemetry-sdk")
_CONVENTIONS = "opentelemetry-semantic-conventions"
_INSTRUMENTATION = "opentelemetry-instrumentation"


def start(folder: str, home: str, words: Sequence[str]) -> bool:
    """Set up what the command line asks for; return whether this process needs the path.

    Args:
        folder: The tree.
        home: The part of it that is for this Python.
        words: ``sys.orig_argv``.
    """
    os.environ.pop(inherited.TREE, None)  # of a process above
    letters, command = python_options(words)
    if not command or words[-len(command)] != command[0]:  # -mcelery, in one word
        return False
    if command[0] == os.path.join(folder, SCRIPT):
        return _is_arranged(home, SCRIPT, _brought())
    if words_for_ours(words) is not None:  # of an image that has otel-celery itself
        return False
    if _is_celery(letters, command):
        if letters.endswith("m") and any(map(os.path.exists, ("celery.py", "celery"))):
            return False  # the project's own
        if _is_for_us(command[1:]) and _fits(home, "celery", _brought()):
            _become(folder, words[: len(words) - len(command)], letters, command)
        return False
    name = program.program_name(words)
    role = _role_of(Path(command[0]).name, command[1:])
    if role is None or _NOT_PROGRAMS.fullmatch(name):
        return False
    above = os.environ.get(inherited.PROGRAM)
    brought = _brought()
    if role not in CELERY_ROLES and (
        not program.is_the_program(words, name, above) or not _has_celery(brought)
    ):
        return False
    is_arranged = _is_arranged(home, name or "the program", brought)
    return is_arranged and _set_up(role, words, above)


def _is_celery(letters: str, command: Sequence[str]) -> bool:
    """Return whether the command is the one that installing Celery makes."""
    if letters.endswith("m"):
        return command[0] == "celery"
    return not letters.endswith("c") and is_script_of_celery(Path(command[0]))


def _is_for_us(arguments: Sequence[str]) -> bool:
    """Return whether otel-celery does more than Celery for these arguments."""
    try:
        line = read_command_line(arguments, os.environ)
    except LauncherError:
        return False
    is_status = line.command == "inspect" and "otel_status" in line.command_words
    return is_status or line.role is not None


def _role_of(name: str, arguments: Sequence[str]) -> str | None:
    """Return the role of a program that is not Celery's; None if it is left alone.

    ``manage.py celery worker``, ``airflow celery worker``, ``nautobot-server celery beat``
    start what they name in their own process.
    """
    rest = list(arguments)
    if name == "celery":  # a project's own
        rest.insert(0, "celery")
    if rest[:1] == ["celery"]:
        with guarded(UNTRACED):
            role = read_command_line(rest[1:], os.environ).role
            if role in CELERY_ROLES:
                return role
    choice = os.environ.get(CHOICE, "").strip().lower()
    return DEFAULT_ROLE if choice == "python" else None


def _become(
    folder: str, options: Sequence[str], letters: str, command: Sequence[str]
) -> None:
    """Execute the tree's ``otel-celery`` here: nothing has run in this process yet."""
    environ = os.environ
    if letters.endswith("m"):
        options = _without_m(options)
        environ.pop(inherited.INSTEAD_OF, None)
    else:
        environ[inherited.INSTEAD_OF] = command[0]
    words = [*options, os.path.join(folder, SCRIPT), *command[1:]]
    try:
        os.execve(sys.executable, words, environ)
    except OSError:  # an interpreter that is gone, a command line that is too long
        report_failure(UNTRACED)


def _without_m(options: Sequence[str]) -> list[str]:
    """Return the interpreter and its options without the last letter: ``-um`` as ``-u``."""
    *others, last = options
    return [*others, *([last[:-1]] if last != "-m" else [])]


def _set_up(role: str, words: Sequence[str], above: str | None) -> bool:
    """Set up telemetry in this process, as below ``exec``."""
    from otel_celery_launcher.launch.exec_command import service_of
    from otel_celery_launcher.settings.dotenv_files import load_env_files

    name = program.program_name(words)
    if above is None:
        os.environ[inherited.PROGRAM] = f"{name}:{os.getpid()}"
    with guarded(UNTRACED):
        for problem in load_env_files(
            os.environ, role=role, workdir=None, env_files=()
        ):
            say(problem)
        service = service_of(["python", *python_options(words)[1]])
        program.trace(role, service, announces=above is None or role in CELERY_ROLES)
    return True


# What is on the path.


def _is_arranged(home: str, name: str, brought: Mapping[str, str]) -> bool:
    """Put what the tree has on the path; return False if it does not fit here."""
    if not _fits(home, name, brought):
        return False
    os.environ[inherited.TREE] = home
    for folder, is_first in _order(home, brought):
        if is_first:
            sys.path.insert(1, folder)
        else:
            sys.path.append(folder)
    return True


def _brought() -> dict[str, str]:
    """Return the releases of what the application brings of these; read once."""
    found: dict[str, str] = {}
    for package in ("celery", *_SDK, _CONVENTIONS, _INSTRUMENTATION):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _fits(home: str, name: str, brought: Mapping[str, str]) -> bool:
    """Return whether the application can be traced; say why not."""
    problem = _misfit(home, brought)
    if problem:
        say(f"{problem}: {name} runs untraced")
    return not problem


def _has_celery(brought: Mapping[str, str]) -> bool:
    return "celery" in brought or find_spec("celery") is not None


def _misfit(home: str, brought: Mapping[str, str]) -> str:
    """Return what keeps this program from being traced; empty if nothing does."""
    celery = brought.get("celery")
    if not _has_celery(brought):
        return "there is no Celery in this environment"
    if celery is not None and _numbers(celery) < LOWEST_CELERY:
        return f"celery is {celery}: expected 5.3 or later"
    if not Path(exporter_folder(home)).is_dir():
        has = ", ".join(sorted(each.name for each in Path(home).glob("exporter-*")))
        return (
            f"the injected tree has {has}: expected {Path(exporter_folder(home)).name}"
        )
    api, sdk = map(brought.get, _SDK)
    has_family = sdk is not None or _INSTRUMENTATION in brought
    for package, version in zip(_SDK, (api, sdk), strict=True):
        if has_family and version is not None and _numbers(version) < LOWEST_SDK:
            return f"{package} is {version}: expected 1.30 or later, or none of it"
    if has_family and sdk is None and api is not None:
        ours = _own_version(home, "sdk", _SDK[0])
        if _numbers(api)[:2] != _numbers(ours)[:2]:
            return (
                f"opentelemetry-api is {api} and there is no SDK: expected"
                f" opentelemetry-sdk {api} beside it, or none of OpenTelemetry's packages"
            )
    return ""


def _order(home: str, brought: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Return the folders of the tree, and whether each comes before the application's.

    The application's SDK is used if it brings one. Its API alone is no SDK: the newer of
    both APIs is used, since that takes what is written for an older one. The same holds
    for the conventions, which are names.
    """
    api, sdk = map(brought.get, _SDK)
    instrumentation = brought.get(_INSTRUMENTATION)
    conventions = brought.get(_CONVENTIONS)
    is_api_old = (
        sdk is None
        and instrumentation is None
        and api is not None
        and _numbers(api) < _numbers(_own_version(home, "sdk", _SDK[0]))
    )
    are_names_old = conventions is not None and _numbers(conventions) < _numbers(
        _own_version(home, "conventions", _CONVENTIONS)
    )
    own = _own_version(home, "instrumentations", _INSTRUMENTATION)
    folders = [("sdk", is_api_old), ("conventions", are_names_old)]
    if instrumentation is None or instrumentation == own:
        folders.append(("instrumentations", False))
    folders.append(("packages", False))
    return [(os.path.join(home, name), is_first) for name, is_first in folders]


def _own_version(home: str, folder: str, package: str) -> str:
    path = [os.path.join(home, folder)]
    for distribution in metadata.distributions(name=package, path=path):
        return distribution.version
    return "0"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: ``0.66b2`` as (0, 66, 2)."""
    numbers = version.replace("b", ".").replace("rc", ".").split(".")
    return tuple(int(each) for each in numbers if each.isdigit())
