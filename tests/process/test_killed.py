"""Killed tasks: each has its run span, as an error, with the identity it had."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.harness import Producer, hanging_process, run_some, runs, wait_until

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher


@pytest.fixture(autouse=True, params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    child_environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
    return str(request.param)


def lost_run(collector: Receiver, producer: Producer, mode: str) -> ReceivedSpan:
    """Return the one run span; in process mode its inner span is below it."""
    (trace_id, parent_id) = next(iter(producer.parents.items()))
    found = [span for span in runs(collector.spans) if span.trace_id == trace_id]
    assert len(found) == 1, found
    (run,) = found
    assert (run.parent_id, run.is_error) == (parent_id, True)
    below = [span for span in collector.spans if span.parent_id == run.span_id]
    if mode == "process":
        assert [span.name for span in below] == ["inner"]
    assert run.end >= run.start
    return run


def test_a_killed_child(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """SIGKILL: the span comes within seconds, while the worker goes on."""
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send("traces.hangs")
    pid = hanging_process(redis.Redis.from_url(broker))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runs(collector.spans), 15, "the lost run has a span")
    run = lost_run(collector, producer, mode)
    assert run.attributes["error.type"].endswith("WorkerLostError")
    assert "SIGKILL" in run.status_text
    assert run.attributes["process.pid"] == pid
    producer.results.clear()
    run_some(producer)
    worker.stop()
    assert len(runs(collector.spans)) == 21


@pytest.mark.parametrize(
    ("task", "error"),
    [("traces.limited", "TimeLimitExceeded"), ("traces.exits", "WorkerLostError")],
    ids=["the hard time limit", "a task that exits"],
)
def test_a_task_that_takes_its_process_along(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    mode: str,
    task: str,
    error: str,
) -> None:
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send(task)
    wait_until(lambda: runs(collector.spans), 20, "the run has a span")
    worker.stop()
    run = lost_run(collector, producer, mode)
    assert run.attributes["error.type"].endswith(error)


def test_revoke_with_terminate(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """TERM lets Python end the task as if all were well: the main process knows better."""
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    result = producer.send("traces.hangs")
    hanging_process(redis.Redis.from_url(broker))
    producer.app.control.revoke(result.id, terminate=True)
    wait_until(lambda: runs(collector.spans), 20, "the run has a span")
    worker.stop()
    run = lost_run(collector, producer, mode)
    assert run.attributes["error.type"].endswith("Terminated")
    assert run.attributes["celery.terminated.signal"]


def test_a_redelivered_task_has_two_runs_the_second_marked(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """`reject_on_worker_lost`: Celery says nothing of the first end."""
    worker = launcher.worker("-c1", app="traces")
    producer = Producer(broker)
    producer.send("traces.again")
    wait_until(lambda: len(runs(collector.spans)) >= 2, 30, "both runs have spans")
    worker.stop()
    first, second = sorted(runs(collector.spans), key=lambda span: span.start)
    assert first.is_error
    assert first.attributes["celery.lost"] is True
    assert not second.is_error
    assert second.attributes["celery.redelivered"] is True
    assert {first.parent_id, second.parent_id} == set(producer.parents.values())
    assert first.span_id != second.span_id


def test_a_cold_stop_while_a_task_runs(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send("traces.hangs")
    hanging_process(redis.Redis.from_url(broker))
    worker.stop(signal.SIGQUIT)
    collector.wait_for(lambda spans: bool(runs(spans)), 5)
    lost_run(collector, producer, mode)


@pytest.mark.parametrize("mode", ["process"], indirect=True)
def test_death_of_the_main_process_where_the_exporter_outlives_it(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send("traces.hangs")
    hanging_process(redis.Redis.from_url(broker))
    worker.popen.kill()
    worker.wait()
    collector.wait_for(lambda spans: bool(runs(spans)), 8)
    run = lost_run(collector, producer, mode)
    assert run.service == "shop-worker"
    assert run.status_text == "the worker's main process is gone"


def test_normal_tasks_have_one_span_whatever_happens_beside_them(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """Children recycled after each task: no end of a process is taken for a lost run."""
    worker = launcher.worker("-c4", "--max-tasks-per-child", "1")
    producer = Producer(broker)
    run_some(producer, 60)
    worker.stop()
    assert len(runs(collector.spans)) == 60
    assert not [span for span in collector.spans if span.is_error]


def test_celery_that_notices_ten_seconds_later(
    launcher: Launcher, collector: Receiver, broker: str, tmp_path: Path
) -> None:
    """The filesystem transport: the span comes at once, and no second one after it."""
    files = tmp_path / "files"
    files.mkdir()
    worker = launcher.worker("-c1", app="onfiles", SHOP_FILES=str(files))
    launcher.run("-A", "onfiles", "call", "traces.hangs", SHOP_FILES=str(files))
    pid = hanging_process(redis.Redis.from_url(broker))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runs(collector.spans), 5, "the lost run has a span")
    worker.wait_for_output("WorkerLostError", 30)
    worker.stop()
    (run,) = runs(collector.spans)
    assert (run.is_error, run.attributes["process.pid"]) == (True, pid)
    assert run.parent_id in {span.span_id for span in collector.spans}
