"""The image's user, its read-only root and its probe, with a real worker.

Where there is a Docker engine, .github/workflows/ci.yml runs the image itself. Here a
mount namespace is what the container would be.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import (
    SCRIPT,
    Producer,
    assert_each_run_once,
    exporter_of,
    run_some,
)

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
# An interpreter in root's home is out of everybody's reach: this leaves it alone there.
READABLE_HOME = """mkdir -p {keep} && mount --bind {home} {keep} &&
mount -t tmpfs -o mode=755 none /root && mkdir -p {home} &&
mount --bind {keep} {home} &&"""


def user_of_the_image() -> int:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    return int(user)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The launcher as the image runs it."""
    home = "/".join(sys.base_prefix.split("/")[:3])
    readable = READABLE_HOME.format(keep=tmp_path / "keep", home=home)
    path = tmp_path / "in-a-container"
    path.write_text(
        IN_A_CONTAINER.format(
            readable=readable if home.startswith("/root/") else "",
            user=user_of_the_image(),
            script=SCRIPT,
        )
    )
    path.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
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
    (found,) = re.findall(r"HEALTHCHECK .*\\\n\s+CMD (\[.+\])", DOCKERFILE)
    _, *words = json.loads(found)
    environ = {**os.environ, "OTEL_CELERY_HEALTH_FILE": file}
    return subprocess.run([SCRIPT, *words], check=False, env=environ).returncode
