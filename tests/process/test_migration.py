"""Half a fleet is migrated: docs/upgrade.md. Publishers and workers of both kinds, mixed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.harness import CELERY, SCRIPT, runs

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

PUBLISH = """
import plain
plain.noop.delay().get(timeout=20)
"""
TRACED = (SCRIPT, "exec", "--role", "web", "--")


def publish(launcher: Launcher, *before: str | Path) -> None:
    """Publish from a program of its own, and wait for the result."""
    command = [*before, sys.executable, "-c", PUBLISH]
    subprocess.run(
        command, env=launcher.environ, cwd=launcher.folder, check=True, timeout=60
    )


def test_a_plain_publisher_and_a_traced_worker(
    launcher: Launcher, collector: Receiver
) -> None:
    """The run begins a trace; what the publisher has sees no difference."""
    worker = launcher.worker(app="plain")
    publish(launcher)
    worker.stop()
    (run,) = runs(collector.spans)
    assert not run.parent_id


def test_a_traced_publisher_and_a_plain_worker(
    launcher: Launcher, collector: Receiver
) -> None:
    """Rolled back, with messages of the other kind still in the queue."""
    worker = launcher.worker(app="plain", program=CELERY)
    publish(launcher, *TRACED)
    worker.stop()
    assert worker.popen.returncode == 0
    (span,) = collector.wait_for(lambda spans: len(spans) >= 1, 10)
    assert span.name == "apply_async/plain.noop"
