"""The image's user, its read-only root and its probe, with a real worker.

Where there is a Docker engine, .github/workflows/ci.yml runs the image itself. Here a
mount namespace is what the container would be.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.test_run import docker_probe
from tests.support.harness import (
    SCRIPT,
    Producer,
    assert_each_run_once,
    exporter_of,
    run_some,
)
from tests.support.processes import readable_interpreter

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

DOCKERFILE = (Path(__file__).parent.parent.parent / "Dockerfile").read_text()

# What the image has: no capability, and nothing writable but a tmpfs.
IN_A_CONTAINER = """#!/bin/sh
exec unshare -m sh -c '{readable}
mount -o remount,ro,bind / && ! touch /x 2>/dev/null &&
exec setpriv --reuid={user} --regid={user} --clear-groups --bounding-set=-all \\
  --inh-caps=-all --no-new-privs "$@"' sh {script} "$@"
"""


def user_of_the_image() -> int:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    return int(user)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The launcher as the image runs it."""
    path = tmp_path / "in-a-container"
    path.write_text(
        IN_A_CONTAINER.format(
            readable=readable_interpreter(tmp_path),
            user=user_of_the_image(),
            script=SCRIPT,
        )
    )
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change mounts")
def test_a_worker_runs_as_the_images_user_on_a_read_only_root(
    launcher: Launcher, collector: Receiver, broker: str, program: Path
) -> None:
    """With its exporter process, its metrics and its health file; nothing is lost."""
    health = Path("/dev/shm") / f"health-{os.getpid()}"
    worker = launcher.worker(
        program=program, TMPDIR="/dev/shm", OTEL_CELERY_HEALTH_FILE=str(health)
    )
    producer = Producer(broker)
    run_some(producer, 50)
    exporter = exporter_of(worker)
    assert exporter.uids().real == user_of_the_image()
    assert status_of(exporter.pid)["CapEff"] == status_of(exporter.pid)["CapBnd"] == 0
    assert probe(str(health)) == 0
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert not health.exists()


def status_of(pid: int) -> dict[str, int]:
    """Return the sets of capabilities of a process (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: int(value, 16)
        for name, _, value in (line.partition(":\t") for line in lines)
        if name.startswith("Cap")
    }


def probe(file: str) -> int:
    """Run the image's own probe; return its exit status."""
    _, *words = docker_probe()
    environ = {**os.environ, "OTEL_CELERY_HEALTH_FILE": file}
    return subprocess.run([SCRIPT, *words], check=False, env=environ).returncode
