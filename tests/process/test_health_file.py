"""OTEL_CELERY_HEALTH_FILE: new while the worker is healthy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.harness import (
    CELERY,
    Producer,
    run_some,
    wait_until,
)

if TYPE_CHECKING:
    from tests.support.harness import Launcher


class HealthFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def age(self) -> float:
        return time.time() - self.path.stat().st_mtime


def test_health_file_is_new_while_the_worker_works(
    launcher: Launcher, broker: str
) -> None:
    """Touched when ready and as heartbeats go, old when it hangs, removed at the end."""
    template = str(launcher.folder / "%n.health")
    worker = launcher.worker("-n", "w1@x", OTEL_CELERY_HEALTH_FILE=template)
    health = HealthFile(launcher.folder / "w1.health")
    wait_until(health.path.exists, 5, "the file is there")
    first = health.path.stat().st_mtime
    wait_until(lambda: health.path.stat().st_mtime > first, 5, "it is touched again")
    main = psutil.Process(worker.popen.pid)
    main.suspend()
    wait_until(lambda: health.age > 4, 10, "it grows old")
    main.resume()
    wait_until(lambda: health.age < 2, 5, "it is new again")
    worker.stop()
    assert not health.path.exists()


@pytest.mark.parametrize("before", [[], ["exec", "--role", "worker", "--", CELERY]])
def test_health_file_is_there_where_tracing_is_off(
    launcher: Launcher, broker: str, before: list[str]
) -> None:
    """Turned off at 3 a.m., a probe must not keep the worker from its tasks."""
    path = launcher.folder / "health"
    words = ["-A", "shop", "worker", "-l", "INFO", "-c", "1"]
    worker = launcher.start(
        *map(str, before), *words,
        OTEL_SDK_DISABLED="true", OTEL_CELERY_HEALTH_FILE=str(path),
    ).wait_until_ready()  # fmt: skip
    wait_until(path.exists, 5, "the file is there")
    first = path.stat().st_mtime
    wait_until(lambda: path.stat().st_mtime > first, 5, "it is touched again")
    run_some(Producer(broker), 1)
    worker.stop()
    assert worker.popen.returncode == 0
    assert not path.exists()
    assert worker.own_lines == []


def test_health_file_that_cannot_be_written_is_one_line(
    launcher: Launcher, broker: str
) -> None:
    worker = launcher.worker(OTEL_CELERY_HEALTH_FILE="/proc/no/such")
    run_some(Producer(broker), 1)
    worker.stop()
    assert worker.popen.returncode == 0
    assert sum("OTEL_CELERY_HEALTH_FILE" in line for line in worker.own_lines) == 1


def test_health_file_of_somebody_else_is_not_removed(
    launcher: Launcher, broker: str
) -> None:
    precious = launcher.folder / "precious"
    precious.write_text("keep me")
    launcher.worker(OTEL_CELERY_HEALTH_FILE=str(precious)).stop()
    assert precious.read_text() == "keep me"
