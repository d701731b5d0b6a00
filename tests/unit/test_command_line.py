"""Command lines: role, application, and Celery's arguments untouched."""

from __future__ import annotations

import click
import pytest
from celery.bin.celery import celery
from celery.bin.worker import worker

from otel_celery_launcher.command_line import (
    COMMANDS_WITHOUT_TELEMETRY,
    GLOBAL_VALUE_OPTIONS,
    ROLES,
    WORKER_VALUE_OPTIONS,
    app_name,
    read_command_line,
)
from otel_celery_launcher.errors import LauncherError


def value_options(command: click.Command) -> set[str]:
    return {
        name
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }


def test_options_are_those_of_the_installed_celery() -> None:
    """A global option with a value that we do not know would hide the command."""
    assert set(GLOBAL_VALUE_OPTIONS) == value_options(celery)
    assert set(WORKER_VALUE_OPTIONS) <= value_options(worker)


def test_every_command_of_the_installed_celery_is_decided() -> None:
    decided = COMMANDS_WITHOUT_TELEMETRY | set(ROLES) | {"call", "shell", "report"}
    assert set(celery.commands) <= decided | {"flower"}


@pytest.mark.parametrize(
    ("words", "role", "app"),
    [
        ("-A proj worker", "worker", "proj"),
        ("-Aproj worker -l INFO", "worker", "proj"),
        ("--app=proj.celery:app -q beat", "beat", "proj"),
        ("-qA proj flower --port=5555", "flower", "proj"),
        ("--workdir /srv -b redis:// -A proj call proj.add", "producer", "proj"),
        ("-A proj shell", "producer", "proj"),
        ("-A proj status", None, "proj"),
        ("-A proj multi start 2", None, "proj"),
        ("-A proj worker --detach", None, "proj"),
        ("-A proj worker -D", None, "proj"),
        ("-A proj worker --help", None, "proj"),
        ("--help", None, "celery"),
        ("", None, "celery"),
        ("-A worker -b beat status", None, "worker"),
    ],
)
def test_role_and_application(words: str, role: str | None, app: str) -> None:
    found = read_command_line(words.split(), {})
    assert (found.role, found.app_name) == (role, app)
    assert list(found.celery_arguments) == words.split()


@pytest.mark.parametrize(
    ("words", "command", "before", "after"),
    [
        ("-A tail tail --errors", "tail", "-A tail", "--errors"),
        ("-A exec exec -- exec x", "exec", "-A exec", "-- exec x"),
        ("doctor -A doctor", "doctor", "", "-A doctor"),
        (
            "-b worker -A worker worker worker",
            "worker",
            "-b worker -A worker",
            "worker",
        ),
        ("--help", None, "--help", ""),
    ],
)
def test_words_before_and_after_the_command(
    words: str, command: str | None, before: str, after: str
) -> None:
    """An application may be called as a command is."""
    found = read_command_line(words.split(), {})
    assert found.command == command
    assert " ".join(found.global_words) == before
    assert " ".join(found.command_words) == after


def test_pool_node_and_workdir() -> None:
    found = read_command_line(
        [
            "--workdir=/srv",
            "-A",
            "p",
            "worker",
            "-c",
            "4",
            "-P",
            "gevent",
            "-n",
            "w1@%h",
        ],
        {},
    )
    assert (found.workdir, found.pool, found.node) == ("/srv", "gevent", "w1@%h")


def test_application_from_the_environment_as_celery_reads_it() -> None:
    assert read_command_line(["worker"], {"CELERY_APP": "a.celery"}).app_name == "a"
    assert read_command_line(["worker"], {"APP": "b"}).app_name == "b"


def test_env_files_stand_before_celerys_options() -> None:
    found = read_command_line(
        ["--env-file", "a", "--env-file=b", "-A", "p", "worker", "--env-file", "c"], {}
    )
    assert found.env_files == ("a", "b")
    assert found.celery_arguments == ("-A", "p", "worker", "--env-file", "c")
    with pytest.raises(LauncherError, match="--env-file has no value"):
        read_command_line(["--env-file"], {})


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("proj", "proj"),
        ("proj.celery", "proj"),
        ("proj.tasks.celery_app:app", "proj"),
        ("apps.orders.celery", "apps.orders"),
        ("celery", "celery"),
        ("", "celery"),
    ],
)
def test_app_name(app: str, name: str) -> None:
    assert app_name(app) == name
