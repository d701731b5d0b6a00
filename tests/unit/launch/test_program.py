"""Which process below exec is the program."""

from __future__ import annotations

import os

import pytest

from otel_celery_launcher.launch.program import is_the_program, program_name

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
