""".env files: what is read, what wins, what a re-exec reads anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.ipc.inherited import LOADED
from otel_celery_launcher.settings.dotenv_files import load_env_files

if TYPE_CHECKING:
    from pathlib import Path


def load(
    environ: dict[str, str], folder: Path, *env_files: str, role: str | None = "worker"
) -> list[str]:
    return load_env_files(environ, role=role, workdir=str(folder), env_files=env_files)


def test_only_otel_names_of_found_files_and_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTEL_A=1\nOTEL_B=1\nOTEL_C=1\nSECRET_KEY=x\n")
    (tmp_path / ".env.worker").write_text("OTEL_B=2\nOTEL_C=2\n")
    (tmp_path / ".env.beat").write_text("OTEL_B=3\n")
    environ = {"OTEL_C": "real"}
    assert load(environ, tmp_path) == []
    assert environ.pop(LOADED) == f"{os.getpid()}:OTEL_A,OTEL_B"
    assert environ == {"OTEL_A": "1", "OTEL_B": "2", "OTEL_C": "real"}


def test_named_files_are_loaded_whole_also_without_telemetry(tmp_path: Path) -> None:
    file = tmp_path / "prod.env"
    file.write_text('BROKER="redis://x"\nOTEL_A=1\n')
    environ: dict[str, str] = {}
    load(environ, tmp_path, str(file), role=None)
    assert (environ["BROKER"], environ["OTEL_A"]) == ("redis://x", "1")
    assert environ["OTEL_CELERY_ENV_FILE"] == str(file)


def test_the_same_process_forgets_and_reads_anew(tmp_path: Path) -> None:
    """SIGHUP re-executes: a name gone from the file is gone from the environment."""
    file = tmp_path / ".env"
    file.write_text("OTEL_A=1\nOTEL_B=1\n")
    environ: dict[str, str] = {}
    load(environ, tmp_path)
    file.write_text("OTEL_A=2\n")
    load(environ, tmp_path)
    assert environ["OTEL_A"] == "2"
    assert "OTEL_B" not in environ


def test_another_process_keeps_what_it_inherits(tmp_path: Path) -> None:
    environ = {LOADED: "1:OTEL_A", "OTEL_A": "1"}
    load(environ, tmp_path)
    assert environ == {"OTEL_A": "1"}


def test_unreadable_found_file_is_a_line_and_a_named_one_status_78(
    tmp_path: Path,
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"OTEL_A=\xff\n")
    (problem,) = load({}, tmp_path)
    assert "cannot be read" in problem
    with pytest.raises(LauncherError, match="expected a readable UTF-8 file") as raised:
        load({}, tmp_path, str(file))
    assert raised.value.exit_status == 78


@pytest.mark.parametrize("line", ["OTEL_A=a\0b", "'OTEL_A=b'=c", "OTEL_\0=a"])
def test_a_variable_that_no_environment_can_hold_is_a_line(
    tmp_path: Path, line: str
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OTEL_B=1\n{line}\n")
    environ: dict[str, str] = {}
    (problem,) = load(environ, tmp_path)
    assert "cannot be read (no environment can hold its variable 'OTEL_" in problem
    assert environ == {}
    with pytest.raises(LauncherError, match="expected a readable UTF-8 file"):
        load({}, tmp_path, str(file))
