"""How spans leave, by the settings."""

from __future__ import annotations

import pytest

from otel_celery_launcher.command_line import program_command_line
from otel_celery_launcher.settings.settings import Settings


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
