"""Flower, a subcommand of Celery's."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import (
    assert_nothing_left,
)
from tests.support.harness import (
    runs,
    wait_until,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher


@pytest.fixture(scope="session")
def flower_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flower, apart: every Celery command imports an installed flower at its start."""
    folder = tmp_path_factory.mktemp("flower")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    packages = ["flower>=2", "tornado", "prometheus_client", "humanize", "pytz"]
    subprocess.run([*pip, "--target", folder, *packages], check=True)
    return folder


def test_flower_is_a_subcommand(
    launcher: Launcher, collector: Receiver, broker: str, flower_folder: Path
) -> None:
    """Its tasks begin traces of role flower; SIGTERM ends it with status 0."""
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = launcher.worker()
    flower = launcher.start(
        "-A", "shop", "flower", f"--port={port}", "--address=127.0.0.1",
        FLOWER_UNAUTHENTICATED_API="true",
        PYTHONPATH=f"{launcher.environ['PYTHONPATH']}:{flower_folder}",
    )  # fmt: skip
    flower.wait_for_output("Visit me at")
    url = f"http://127.0.0.1:{port}"

    def is_healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/healthcheck", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(is_healthy, 20, "flower answers")
    request = urllib.request.Request(
        f"{url}/api/task/async-apply/shop.noop", data=b"{}", method="POST"
    )
    urllib.request.urlopen(request, timeout=20).close()
    collector.wait_for(lambda spans: bool(runs(spans)), 15)
    flower.stop()
    worker.stop()
    assert flower.popen.returncode == 0
    (run,) = runs(collector.spans)
    (publish,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert (publish.service, run.parent_id) == ("shop-flower", publish.span_id)
    assert_nothing_left(launcher)
