# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of Celery's own tests, plain and under the launcher.

What this knows of Celery's source distribution: its tests are the package ``t``, with
``t/unit`` and ``t/integration`` below it; their settings for pytest are in
``pyproject.toml`` or ``setup.cfg``; the integration tests read ``TEST_BROKER``,
``TEST_BACKEND``, ``REDIS_HOST`` and ``REDIS_PORT``.

"Under the launcher" is ``otel-celery exec --role worker``. It is the way in which a program
that is not ``celery`` itself sees us, and it does what ``otel-celery worker`` does, but for
``gc.freeze``: telemetry is set up before anything imports Celery, the instrumentor is active,
and the receivers of the worker's life cycle are connected, which other roles leave out in
part. It adds what ``exec`` alone does, handlers of SIGTERM and of ``os.exec*``. A collector is
there and takes everything, so that exporters run as they do for a user. Pytest plugins
would come too late: pytest imports Celery's plugin before any of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.upstream.comparison import Run, read_run

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

PLUGIN = Path(__file__).with_name("record_outcomes.py")

CLOSING_LINE = re.compile(
    r"^(?:=+ )?(\d+ [a-z]+.* in \d+\.\d+s.*?)(?: =+)?$", re.MULTILINE
)

# Seconds for one run: a hang ends here, and the report names the test that hung.
MOST_SECONDS = 1800.0


@dataclass
class Side:
    """One of the two: plain, or under the launcher.

    Attributes:
        name: Of its folder and its log.
        venv: The environment that has Celery's tests.
        source: The unpacked source distribution.
        runs: Where it has its folder, its log and its record.
        environ: Variables beside those that each run gets.
        is_traced: Whether it runs under the launcher.
    """

    name: str
    venv: Path
    source: Path
    runs: Path
    environ: dict[str, str]
    is_traced: bool

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def record(self) -> Path:
        return self.folder.with_suffix(".jsonl")

    def start(self, where: Sequence[str], only: Collection[str] = ()) -> Started:
        """Start pytest on folders or files, on all of their tests or on some."""
        self._make_folder()
        python = str(self.venv / "bin" / "python")
        words = [python, "-m", "pytest", *where, "--record", str(self.record)]
        words += ["-p", PLUGIN.stem, "-p", "no:cacheprovider", "-q", "-rfE"]
        if only:
            names = self.folder / "only.txt"
            names.write_text("\n".join(only))
            words += ["--only", str(names)]
        if self.is_traced:
            program = str(self.venv / "bin" / "otel-celery")
            words = [program, "exec", "--role", "worker", "--", *words]
        with self.log.open("wb") as out:
            popen = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(self, popen, time.monotonic())

    def _make_folder(self) -> None:
        """Make a fresh folder with the tests alone: they import the installed Celery."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.record.unlink(missing_ok=True)
        self.folder.mkdir(parents=True)
        shutil.copytree(self.source / "t", self.folder / "t")
        for name in ("pyproject.toml", "setup.cfg"):
            if (self.source / name).exists():
                shutil.copy(self.source / name, self.folder)
        shutil.copy(PLUGIN, self.folder)
        (self.folder / "tmp").mkdir()

    def _environ(self) -> dict[str, str]:
        """Return an environment that is built, not inherited; as Celery's ``tox.ini``."""
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "WORKER_LOGLEVEL": "INFO",
            **self.environ,
        }


@dataclass
class Started:
    """A run that goes on."""

    side: Side
    popen: subprocess.Popen[bytes]
    began: float  # seconds, monotonic

    def wait(self) -> Finished:
        """Wait for its end, or end it when its time is over; read what became of it."""
        left = MOST_SECONDS - (time.monotonic() - self.began)
        try:
            self.popen.wait(max(left, 0))
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
        seconds = time.monotonic() - self.began
        self.kill()
        run = Run()
        if self.side.record.exists():
            with self.side.record.open() as lines:
                run = read_run(lines)
        return Finished(self.side, run, self.popen.returncode, seconds, in_time)

    def kill(self) -> None:
        """End what is left of it: pytest, and the workers that its tests started."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@dataclass
class Finished:
    """A run that has ended."""

    side: Side
    run: Run
    exit_status: int
    seconds: float
    in_time: bool

    @property
    def closing_line(self) -> str:
        """Return pytest's last line."""
        found = CLOSING_LINE.findall(self.side.log.read_text(errors="replace"))
        return found[-1] if found else "no closing line"

    def problem(self) -> str:
        """Return why this run says nothing, or what its end says; empty for neither."""
        name, log = self.side.name, self.side.log
        if not self.in_time:
            return (
                f"{name} did not end within {MOST_SECONDS:.0f} s: expected the end of all"
                f" tests; it hung in {self.run.unfinished!r}, see {log}"
            )
        if self.run.status not in (0, 1):
            return (
                f"{name} ended with exit status {self.exit_status} before all tests had"
                f" run, in {self.run.unfinished!r}; see {log}"
            )
        if self.exit_status != self.run.status:
            return (
                f"{name} ended with exit status {self.exit_status}: expected pytest's own,"
                f" {self.run.status}; see {log}"
            )
        if self.side.is_traced and not self.run.is_traced:
            return f"{name} was not traced at its end: it proves nothing; see {log}"
        return ""
