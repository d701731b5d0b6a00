"""What a command says about its service."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_celery_launcher.launch.exec_command import service_of


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
