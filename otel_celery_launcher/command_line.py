# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a Celery command line: its command, role, application and pool.

Runs in the launcher before Celery is imported. Celery receives every argument as it was
given, except our own ``--env-file`` and the ``-m celery`` of a detached start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otel_celery_launcher.errors import LauncherError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Celery's global options that take a value (celery/bin/celery.py, 5.3 to 5.7). A unit
# test compares them with the installed Celery.
GLOBAL_VALUE_OPTIONS = {
    "-A": "app",
    "--app": "app",
    "-b": "broker",
    "--broker": "broker",
    "--result-backend": "result_backend",
    "--loader": "loader",
    "--config": "config",
    "--workdir": "workdir",
}

WORKER_VALUE_OPTIONS = {
    "-P": "pool",
    "--pool": "pool",
    "-n": "node",
    "--hostname": "node",
}

# Commands that run or publish tasks. Commands not named here (plugins) may publish.
ROLES = {"worker": "worker", "beat": "beat", "flower": "flower"}
DEFAULT_ROLE = "producer"

# Roles of processes that Celery runs. They may fork or detach before the lasting
# process runs, and they handle no requests.
CELERY_ROLES = frozenset({"worker", "beat"})

# Commands that do neither: they go straight to Celery with nothing imported.
COMMANDS_WITHOUT_TELEMETRY = frozenset(
    {
        "amqp",
        "control",
        "events",
        "graph",
        "inspect",
        "list",
        "logtool",
        "migrate",
        "multi",
        "purge",
        "report",
        "result",
        "status",
        "upgrade",
    }
)

# The last part of `-A proj.celery` says nothing about the service.
GENERIC_MODULE_NAMES = frozenset(
    {"app", "celery", "celery_app", "celeryapp", "main", "tasks", "worker"}
)


# Subcommands of multi that put together the command lines of workers.
STARTING = frozenset({"start", "restart", "show", "get"})


class CommandLine(NamedTuple):
    """A command line as read, and what is left of it for Celery."""

    role: str | None  # None: no telemetry for this command
    app_name: str
    command: str | None = None
    app: str = ""  # the value of -A
    workdir: str | None = None
    pool: str | None = None
    node: str | None = None
    env_files: tuple[str, ...] = ()
    celery_arguments: tuple[str, ...] = ()
    global_words: tuple[str, ...] = ()  # before the command
    command_words: tuple[str, ...] = ()  # after it
    starts_workers: bool = False  # by executing Python anew: multi, --detach
    shows_version: bool = False
    shows_help: bool = False
    is_program: bool = False  # a program that is not Celery's; it may fork or not


def read_command_line(
    arguments: Sequence[str], environ: Mapping[str, str]
) -> CommandLine:
    """Read ``sys.argv[1:]``.

    Args:
        arguments: The arguments after the program's name.
        environ: For ``CELERY_APP`` and ``APP``, which Celery reads in place of ``-A``.

    Raises:
        LauncherError: An own option without its value.
    """
    env_files, rest = _take_own_options(without_module(arguments))
    options, position = _read_options(rest, GLOBAL_VALUE_OPTIONS)
    command = rest[position] if position < len(rest) else None
    global_words = rest[:position]
    command_words = rest[position + 1 :]
    worker_options, _ = _read_options(command_words, WORKER_VALUE_OPTIONS, every=True)
    app = options.get("app") or environ.get("CELERY_APP") or environ.get("APP") or ""
    return CommandLine(
        command=command,
        role=_role(command, command_words),
        app=app,
        app_name=app_name(app),
        workdir=options.get("workdir") or environ.get("CELERY_WORKDIR"),
        pool=worker_options.get("pool") or environ.get("CELERY_WORKER_POOL"),
        node=worker_options.get("node") or environ.get("CELERY_WORKER_HOSTNAME"),
        env_files=env_files,
        celery_arguments=tuple(rest),
        global_words=tuple(global_words),
        command_words=tuple(command_words),
        starts_workers=starts_workers(command, command_words),
        shows_version="--version" in global_words,
        shows_help="--help" in global_words or not rest,
    )


def program_command_line(role: str, app_name: str) -> CommandLine:
    """Return a ``CommandLine`` for a program that is not Celery's command line."""
    return CommandLine(role=role, app_name=app_name, is_program=True)


def without_module(arguments: Sequence[str]) -> list[str]:
    """Drop the ``-m celery`` with which Celery executes Python."""
    is_module = list(arguments[:2]) == ["-m", "celery"]
    return list(arguments[2:] if is_module else arguments)


def starts_workers(command: str | None, words: Sequence[str]) -> bool:
    """Return whether a command executes Python for its workers.

    Args:
        command: Celery's command.
        words: What follows it.
    """
    if command == "multi":
        return bool(STARTING.intersection(words))
    return command == "worker" and ("-D" in words or "--detach" in words)


def app_name(app: str) -> str:
    """Return the service name that ``-A`` implies: ``proj`` of ``proj.celery:app``."""
    parts = [part for part in app.partition(":")[0].split(".") if part]
    while len(parts) > 1 and parts[-1] in GENERIC_MODULE_NAMES:
        parts.pop()
    return ".".join(parts) or "celery"


def _take_own_options(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Split our options, which stand before all of Celery's, from the rest."""
    rest = list(arguments)
    env_files: list[str] = []
    while rest and rest[0].partition("=")[0] == "--env-file":
        name, has_value, value = rest.pop(0).partition("=")
        if not has_value:
            value = rest.pop(0) if rest else ""
        if not value:
            raise LauncherError(
                f"{name} has no value: expected the path of a file",
                "write it before Celery's options: otel-celery --env-file prod.env -A app worker",
            )
        env_files.append(value)
    return tuple(env_files), rest


def _read_options(
    words: Sequence[str], with_value: Mapping[str, str], *, every: bool = False
) -> tuple[dict[str, str], int]:
    """Read options that take a value, up to the first word that is not an option.

    With ``every`` such words are passed over and reading goes on to the end.
    """
    values: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-") or word in ("-", "--"):
            if not every:
                break
        elif (option := _split_option(word, with_value)) is not None:
            name, value = option
            if value is None:
                position += 1
                value = words[position] if position < len(words) else ""
            values[with_value[name]] = value
        position += 1
    return values, min(position, len(words))


def _split_option(
    word: str, with_value: Mapping[str, str]
) -> tuple[str, str | None] | None:
    """Return name and attached value (``--app=x``, ``-Ax``, ``-qA``), or None."""
    if word.startswith("--"):
        name, has_value, value = word.partition("=")
        if name in with_value:
            return name, value if has_value else None
        return None
    for index, letter in enumerate(word[1:], start=1):
        if f"-{letter}" in with_value:
            return f"-{letter}", word[index + 1 :] or None
    return None


def _role(command: str | None, words: Sequence[str]) -> str | None:
    if command is None or command in COMMANDS_WITHOUT_TELEMETRY or "--help" in words:
        return None
    if starts_workers(command, words):
        return None
    return ROLES.get(command, DEFAULT_ROLE)
