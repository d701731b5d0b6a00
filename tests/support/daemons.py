"""Workers and beats that leave the terminal: found by their pidfiles, ended with a test."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.harness import (
    SAID_SECONDS,
    SCRIPT,
    STOP_SECONDS,
    processes_in,
    wait_until,
)

if TYPE_CHECKING:
    from tests.support.harness import Launcher


def processes_of(launcher: Launcher) -> list[psutil.Process]:
    return processes_in(launcher.environ["HOME"])


def assert_nothing_left(launcher: Launcher, *files: Path) -> None:
    """No process runs on, these files are gone, and so is all in the temporary folder."""
    wait_until(
        lambda: not processes_of(launcher),
        10,
        f"all have ended: {processes_of(launcher)}",
    )
    assert not [file for file in files if file.exists()]
    temporary = launcher.environ.get("TMPDIR")
    assert temporary is None or not os.listdir(temporary)


@dataclass
class Daemon:
    """A detached worker or beat."""

    pidfile: Path
    logfile: Path

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    @property
    def own_lines(self) -> list[str]:
        return [line for line in self.log.splitlines() if "otel-celery: " in line]

    def wait_for_log(self, text: str, count: int = 1) -> Daemon:
        wait_until(
            lambda: self.log.count(text) >= count,
            SAID_SECONDS,
            f"{text!r} in {self.logfile}",
        )
        return self

    def stop(self) -> None:
        psutil.Process(self.pid).send_signal(signal.SIGTERM)
        wait_until(lambda: not self.pidfile.exists(), STOP_SECONDS, "it has ended")


def daemon_of(launcher: Launcher, node: str) -> Daemon:
    return Daemon(launcher.folder / f"{node}.pid", launcher.folder / f"{node}.log")


def multi(
    launcher: Launcher, verb: str, *words: str, program: Path = SCRIPT, **environ: str
) -> str:
    """Run a subcommand of multi as Celery's own systemd unit does; return its output."""
    found = launcher.run(
        "-A", "shop", "multi", verb, *words,
        f"--pidfile={launcher.folder}/%n.pid", f"--logfile={launcher.folder}/%n%I.log",
        "--loglevel=INFO", program=program, **environ,
    )  # fmt: skip
    assert found.returncode == 0, found
    return found.stdout


def detached_worker(launcher: Launcher, *options: str, **environ: str) -> Daemon:
    daemon = daemon_of(launcher, "w1")
    found = launcher.run(
        "-A", "shop", "worker", "--detach", "-l", "INFO", "-n", "w1@%h",
        "--pidfile", str(daemon.pidfile), "--logfile", str(daemon.logfile), *options,
        **environ,
    )  # fmt: skip
    assert found.returncode == 0, found
    return daemon.wait_for_log(" ready.")
