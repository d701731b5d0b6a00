"""Run spans received = tasks run, each once, each under its producer's span."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.harness import Producer, assert_each_run_once, runs

if TYPE_CHECKING:
    from otel_celery_launcher.receiver import Receiver
    from tests.harness import Launcher

POOLS = {
    "prefork": [],
    "spawn": ["--pool-start-method", "spawn"],
    "solo": ["-P", "solo"],
    "threads": ["-P", "threads"],
    "one task per child": ["--max-tasks-per-child", "1"],
    "two tasks per child": ["--max-tasks-per-child", "2"],
    "ten tasks per child": ["--max-tasks-per-child", "10"],
    "memory per child": ["--max-memory-per-child", "1"],
}
# A recycled child costs Celery some 0.3 s, so there are fewer tasks.
COUNTS = {"one task per child": 20, "two tasks per child": 40, "memory per child": 20}


@pytest.mark.parametrize("pool", POOLS)
def test_warm_stop_right_after_the_last_task_loses_nothing(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """README: run spans received = tasks run, in every pool."""
    worker = launcher.worker(*POOLS[pool])
    producer = Producer(broker)
    producer.send_many("shop.noop", COUNTS.get(pool, 200))
    producer.wait_for_results()
    worker.stop(signal.SIGTERM)
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
