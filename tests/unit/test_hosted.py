"""Which process below ``exec`` is the program, and what its service is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otel_celery_launcher.command_line import program_command_line
from otel_celery_launcher.launch.exec_command import service_of
from otel_celery_launcher.launch.program import is_the_program, program_name
from otel_celery_launcher.settings.settings import Settings

SPAWN = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)"
TRACKER = "from multiprocessing.resource_tracker import main;main(5)"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python manage.py runserver", "manage"),
        ("python -W ignore -X dev /srv/manage.py migrate", "manage"),
        ("python3.12 /venv/bin/uvicorn shop.web:app --reload", "uvicorn"),
        ("python -m uvicorn shop.web:app", "uvicorn"),
        ("python -m django.core.management runserver", "django"),
        ("python -bb -m flask run", "flask"),
        ("python -c print(1)", ""),
        ("python -", ""),
        ("python", ""),
    ],
)
def test_program_name(command: str, name: str) -> None:
    assert program_name(command.split()) == name


@pytest.mark.parametrize(
    ("argv", "above", "is_ours"),
    [
        (["python", "anything.py"], None, True),
        (["python", "/venv/bin/flask", "run"], "flask:1", True),
        (["python", "-m", "flask", "run"], "flask:1", True),
        (["python", "helper.py"], "flask:1", False),
        (["python", "helper.py"], "flask:SELF", True),
        (["python", "-c", SPAWN, "--multiprocessing-fork"], "uvicorn:1", True),
        (["python", "-c", TRACKER], "uvicorn:1", False),
        (["python", "-c", "print(1)"], ":1", False),
    ],
)
def test_is_the_program(argv: list[str], above: str | None, is_ours: bool) -> None:
    above = above and above.replace("SELF", str(os.getpid()))
    assert is_the_program(argv, program_name(argv), above) is is_ours


@pytest.mark.parametrize(
    ("command", "service"),
    [
        ("uvicorn shop.web:app --port 8000", "shop.web"),
        ("gunicorn -b 0.0.0.0:80 proj.main:app", "proj"),
        ("python billing.py --once", "billing"),
        ("./nightly.py", "nightly"),
        ("python manage.py runserver", "here"),
        ("python -c pass", "here"),
    ],
)
def test_service_of_a_command(
    command: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert service_of(command.split()) == service


@pytest.mark.parametrize(
    ("role", "export", "mode"),
    [
        ("web", "auto", "until_fork"),
        ("web", "inline", "inline"),
        ("web", "process", "process"),
        ("worker", "auto", "process"),
        ("beat", "auto", "until_fork"),
    ],
)
def test_how_spans_of_a_program_leave(role: str, export: str, mode: str) -> None:
    environ = {"OTEL_CELERY_EXPORT": export}
    assert Settings.from_environ(environ, program_command_line(role, "x")).mode == mode
