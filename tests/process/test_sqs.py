"""A worker on SQS, as moto's server plays it: its traces, its counts, its queue."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.process.test_metrics import kill_children, total
from tests.process.test_web import BIN, OTEL_CELERY
from tests.support.harness import runs, wait_until
from tests.support.servers import free_port, is_open

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.metrics import ReceivedPoint
    from tests.support.harness import Launcher

PUBLISH = """
import sys
import on_sqs
for _ in range(int(sys.argv[2])):
    on_sqs.app.tasks["on_sqs." + sys.argv[1]].apply_async()
"""


@pytest.fixture
def sqs(child_environ: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """Run an SQS; the application finds its port."""
    port = free_port()
    child_environ["SQS_PORT"] = str(port)
    with (
        (tmp_path / "moto.log").open("w") as log,
        subprocess.Popen(
            [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        ) as server,
    ):  # fmt: skip
        try:
            wait_until(lambda: is_open(port), 30, "moto_server listens")
            yield
        finally:
            server.terminate()


def publish(launcher: Launcher, task: str, count: int) -> None:
    done = launcher.run(
        "exec", "--role", "web", "--", str(BIN / "python"), "-c", PUBLISH,
        task, str(count),
        program=OTEL_CELERY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("sqs")
def test_the_runs_and_the_queue_of_a_worker_on_sqs(
    launcher: Launcher, collector: Receiver
) -> None:
    publish(launcher, "noop", 3)
    worker = launcher.start(
        "-A", "on_sqs", "worker", "-c1", "--prefetch-multiplier", "1",
        program=OTEL_CELERY,
        OTEL_METRIC_EXPORT_INTERVAL="500",
    )  # fmt: skip
    collector.wait_for(lambda spans: len(runs(spans)) == 3, 30)
    publishes = {span.span_id: span for span in collector.spans}
    for span in runs(collector.spans):
        assert publishes[span.parent_id].trace_id == span.trace_id
        assert publishes[span.parent_id].kind == "PRODUCER"
        assert span.attributes["messaging.system"] == "aws_sqs"
        assert span.attributes["celery.wait.broker"] > 0
    publish(launcher, "nap", 6)

    def in_queue(points: list[ReceivedPoint]) -> float:
        return total(points, "celery.queue.messages", celery__queue__state="ready")

    # One runs, and one is reserved.
    found = collector.wait_for_points(lambda points: in_queue(points) == 4, 30)
    kill_children(worker, 1)
    worker.popen.kill()
    assert in_queue(found) == 4
    assert total(found, "messaging.client.consumed.messages") == 3 + 2
