"""The same promises on RabbitMQ: connections, acknowledgements and headers differ."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import (
    SPAWN,
    Producer,
    assert_each_run_once,
    runs,
    wait_until,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

POOLS = {
    "prefork": (200, []),
    "spawn": (100, SPAWN),
    "solo": (200, ["-P", "solo"]),
    "threads": (200, ["-P", "threads"]),
    "two tasks per child": (20, ["--max-tasks-per-child", "2"]),
}


@pytest.fixture
def broker(rabbitmq_server: str) -> str:
    return f"{rabbitmq_server}//"


@pytest.fixture
def producer(broker: str, redis_server: str) -> Producer:
    """Publishes to RabbitMQ; results come through Redis."""
    found = Producer(broker)
    found.app.conf.result_backend = f"{redis_server}/4001"
    found.app.control.purge()
    return found


if not SPAWN:  # Celery before 5.7 forks only
    del POOLS["spawn"]


@pytest.mark.parametrize("pool", POOLS)
def test_warm_stop_right_after_the_last_task_loses_nothing(
    launcher: Launcher,
    collector: Receiver,
    producer: Producer,
    redis_server: str,
    pool: str,
) -> None:
    """README: on Redis and on RabbitMQ."""
    count, options = POOLS[pool]
    worker = launcher.worker(*options, SHOP_BACKEND=f"{redis_server}/4001")
    producer.send_many("shop.noop", count)
    producer.wait_for_results()
    worker.stop(signal.SIGTERM)
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)


def test_baggage_retries_and_publishes_are_one_trace(
    launcher: Launcher, collector: Receiver, producer: Producer, redis_server: str
) -> None:
    """Headers of RabbitMQ messages carry trace and baggage."""
    worker = launcher.worker(SHOP_BACKEND=f"{redis_server}/4001")
    result = producer.send(
        "shop.baggage_of", "tenant_id", headers={"baggage": "tenant_id=acme"}
    )
    producer.send("shop.flaky", 2)
    producer.send("shop.publish_noop")
    producer.wait_for_results()
    assert result.get() == "acme"
    spans = collector.wait_for(lambda spans: len(spans) >= 9, 10)
    worker.stop()
    assert {span.trace_id for span in spans} == set(producer.parents)
    assert len(spans) == 9


def test_late_acknowledged_task_of_a_killed_worker_runs_again_in_its_trace(
    launcher: Launcher, collector: Receiver, producer: Producer, redis_server: str
) -> None:
    """A redelivered task's run is in the producer's trace."""
    environ = {"SHOP_BACKEND": f"{redis_server}/4001", "SHOP_ACKS_LATE": "1"}
    first = launcher.worker("-P", "solo", **environ)
    producer.send("shop.nap", 3)
    first.wait_for_output("received")
    first.popen.kill()
    first.wait()
    second = launcher.worker("-P", "solo", **environ)
    producer.wait_for_results()
    wait_until(lambda: runs(collector.spans), 15, "the second run is exported")
    second.stop()
    *killed, again = sorted(runs(collector.spans), key=lambda span: span.start)
    assert all(span.attributes["celery.lost"] for span in killed)
    assert again.attributes["celery.state"] == "SUCCESS"
    parents = {span.parent_id for span in (*killed, again)}
    assert parents == set(producer.parents.values())
