"""The queue outlives the exporter process: what has ended arrives, whatever is killed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest

from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.receiver.spans import read_request
from otel_celery_launcher.signals import TRACES
from tests.support.harness import (
    Producer,
    assert_each_run_arrives,
    counters_of,
    exporter_of,
    runs,
    wait_until,
)
from tests.support.processes import is_exporter

if TYPE_CHECKING:
    from tests.support.harness import Launcher, Process


@pytest.fixture(autouse=True)
def process_mode(child_environ: dict[str, str]) -> None:
    child_environ["OTEL_CELERY_EXPORT"] = "process"
    # A stop of a busy machine takes its time, and how long is not the point here.
    child_environ["OTEL_CELERY_SHUTDOWN_SECONDS"] = "30"


def kill_again_and_again(worker: Process, times: int, pause: float) -> None:
    """Kill the exporter process a number of times, each time soon after it is there."""
    for _ in range(times):
        found = exporter_of(worker)
        time.sleep(pause)  # how long it lives is the fault
        with suppress(psutil.NoSuchProcess):
            found.kill()


@pytest.mark.parametrize(
    ("times", "pause", "options"),
    [
        (5, 1.2, ()),
        (12, 0.3, ("--max-tasks-per-child", "40")),
        (15, 1.0, ("--max-tasks-per-child", "300")),
    ],
    ids=["five times", "twelve times, with recycled children", "fifteen times"],
)
def test_an_exporter_process_that_is_killed_often_loses_nothing(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    times: int,
    pause: float,
    options: tuple[str, ...],
) -> None:
    """Under load; the last kill comes right before the stop."""
    worker = launcher.worker(*options)
    producer = Producer(broker)
    killer = threading.Thread(target=kill_again_and_again, args=(worker, times, pause))
    killer.start()
    while killer.is_alive():
        producer.send_many("shop.noop", 60)
        time.sleep(0.2)
    producer.wait_for_results()
    producer.wait_until_acknowledged()
    exporter_of(worker).kill()
    worker.stop()
    assert len(producer.parents) > 500
    assert_each_run_arrives(collector, producer, times + 1)


def test_while_no_exporter_process_lives_the_main_process_keeps_what_ends(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """More than fits the kernel's buffer; then all pool children are killed."""
    worker = launcher.worker()
    producer = Producer(broker)
    main = psutil.Process(worker.popen.pid)
    kill_again_and_again(worker, 6, 0.1)  # the next start is seconds away
    for _ in range(5):
        producer.send_many("shop.noop", 60)
        producer.wait_for_results()
        time.sleep(0.6)  # the main process looks twice a second
    for child in main.children():
        with suppress(psutil.NoSuchProcess):
            if not is_exporter(child):
                child.kill()
    wait_until(lambda: exporter_of(worker).is_running(), 20, "it is replaced")
    worker.stop()
    assert_each_run_arrives(collector, producer, 7)


def test_a_stopped_exporter_process_costs_nothing_where_children_are_killed(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGSTOP: the main process receives instead, before the kernel's buffer is full."""
    worker = launcher.worker()
    producer = Producer(broker)
    exporter = exporter_of(worker)
    exporter.suspend()
    for _ in range(8):
        producer.send_many("shop.noop", 60)
        producer.wait_for_results()
        time.sleep(0.6)  # the main process looks twice a second
    for child in psutil.Process(worker.popen.pid).children():
        if child.pid != exporter.pid:
            child.kill()
    exporter.resume()
    worker.stop()
    assert_each_run_arrives(collector, producer, 1)


def test_a_kill_of_everything_but_the_exporter_process_loses_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGKILL of the exporter process, then of the worker as soon as it is replaced."""
    collector.stop()
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send_many("shop.noop", 300)
    producer.wait_for_results()
    first = exporter_of(worker)
    wait_until(lambda: counters_of(worker).of(TRACES).received >= 300, 5, "read")
    first.kill()
    wait_until(lambda: exporter_of(worker).pid != first.pid, 5, "it is replaced")
    row = counters_of(worker).rows[EXPORTER_ROW]
    wait_until(lambda: row.heartbeat, 5, "it has started")
    for process in [
        *psutil.Process(worker.popen.pid).children(),
        psutil.Process(worker.popen.pid),
    ]:
        if not is_exporter(process):
            process.kill()
    collector.start()
    assert_each_run_arrives(collector, producer, 1)


class Picky(Receiver):
    """Answers INTERNAL for each batch with a span of a name, and for all while down."""

    refuses = "poison"
    is_down = False
    refusals = 0

    def _take(self, request: bytes, context: grpc.ServicerContext) -> None:
        names = {span.name for span in read_request(request)}
        if self.is_down or self.refuses in names:
            self.refusals += 1
            context.abort(grpc.StatusCode.INTERNAL, "mapping failed")
        super()._take(request, context)


def test_an_answer_of_internal_for_everything_is_an_outage(
    launcher: Launcher, broker: str
) -> None:
    picky = Picky()
    with picky:
        picky.is_down = True
        worker = launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=picky.endpoint)
        producer = Producer(broker)
        for _ in range(5):
            producer.send_many("shop.noop", 100)
            producer.wait_for_results()
            time.sleep(1)
        assert picky.refusals > 3
        picky.is_down = False
        worker.stop()
        assert_each_run_arrives(picky, producer)
        assert len(picky.spans) == len({span.span_id for span in picky.spans})


def test_a_poisoned_span_among_a_thousand_is_dropped_and_said(
    launcher: Launcher, broker: str
) -> None:
    picky = Picky()
    with picky:
        worker = launcher.worker("-c1", OTEL_EXPORTER_OTLP_ENDPOINT=picky.endpoint)
        producer = Producer(broker)
        producer.send_many("shop.noop", 500)
        producer.send("shop.named", "poison")
        producer.send_many("shop.noop", 499)
        producer.wait_for_results()
        worker.wait_for_output("were refused by the collector, which takes others")
        worker.stop()
        assert_each_run_arrives(picky, producer)
    assert "INTERNAL: mapping failed" in worker.output


ATTRIBUTES = ",".join(f"key{number}={'v' * 90}" for number in range(600))


def test_a_large_resource_costs_no_span(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """60 kB of attributes: with each message they would fill the kernel's buffer."""
    worker = launcher.worker(OTEL_RESOURCE_ATTRIBUTES=ATTRIBUTES)
    producer = Producer(broker)
    producer.send_many("shop.noop", 1000)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_arrives(collector, producer)
    resource = runs(collector.spans)[-1].resource
    assert resource["key599"] == "v" * 90


def test_solo_is_watched_while_its_task_runs(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """No timer of the main process runs meanwhile."""
    worker = launcher.worker("-P", "solo")
    producer = Producer(broker)
    task = producer.send("shop.nap", 6)
    counters = counters_of(worker)
    wait_until(lambda: any(counters.in_flight_records()), 10, "it runs")
    first = exporter_of(worker)
    first.kill()
    wait_until(lambda: exporter_of(worker).pid != first.pid, 4, "it is replaced")
    assert not task.ready()
    producer.wait_for_results()
    worker.stop()
    assert_each_run_arrives(collector, producer)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_killed_runs_of_other_pools_are_told(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    worker = launcher.worker("-P", pool, "-c3")
    producer = Producer(broker)
    count = 3 if pool == "threads" else 1
    for _ in range(count):
        producer.send("shop.nap", 60)
    counters = counters_of(worker)
    wait_until(lambda: len(list(counters.in_flight_records())) == count, 20, "they run")
    worker.popen.kill()
    collector.wait_for(lambda spans: len(runs(spans)) >= count, 10)
    found = runs(collector.spans)
    assert len(found) == count
    assert all(span.attributes["celery.lost"] for span in found)
