"""``otel-celery healthcheck``: the probe that needs no shell."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.support.harness import wait_until

if TYPE_CHECKING:
    from tests.support.harness import Launcher


def probe(launcher: Launcher, *words: str, **environ: str) -> int:
    """Return the status of the probe."""
    return launcher.run("healthcheck", *words, **environ).returncode


def test_it_tells_a_worker_that_works(launcher: Launcher, broker: str) -> None:
    template = str(launcher.folder / "%n.health")
    environ = {"OTEL_CELERY_HEALTH_FILE": template}
    worker = launcher.worker("-n", "w1@x", **environ)
    file = launcher.folder / "w1.health"
    wait_until(file.exists, 5, "the file is there")
    assert probe(launcher, **environ) == 0
    assert probe(launcher, template) == probe(launcher, str(file)) == 0
    worker.stop()
    assert probe(launcher, **environ) == 1


def test_it_tells_a_worker_that_does_not(launcher: Launcher) -> None:
    file = launcher.folder / "health"
    file.touch()
    old = time.time() - 60
    os.utime(file, (old, old))
    assert probe(launcher, str(file)) == 1
    assert probe(launcher, str(file), "--max-age", "120") == 0
    done = launcher.run("healthcheck", str(file))
    assert "it has not touched" in done.stderr


def test_the_file_may_stand_in_the_workers_env_file(launcher: Launcher) -> None:
    file = launcher.folder / "health"
    file.touch()
    (launcher.folder / ".env.worker").write_text(f"OTEL_CELERY_HEALTH_FILE={file}\n")
    assert probe(launcher) == 0


def test_without_a_file_it_says_what_to_do(launcher: Launcher) -> None:
    done = launcher.run("healthcheck")
    assert done.returncode == 78
    assert "set OTEL_CELERY_HEALTH_FILE" in done.stderr
