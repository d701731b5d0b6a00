"""Metrics: one series a worker, every count right, whatever is killed."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from billiard.exceptions import WorkerLostError
from kombu.serialization import register

from otel_celery_launcher.metrics.builtin import BUILTINS
from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import (
    SPAWN,
    Producer,
    exporter_of,
    runs,
    wait_until,
)
from tests.support.processes import without_exporters
from tests.support.servers import free_port, producer_on, run_redis

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from otel_celery_launcher.receiver.metrics import ReceivedPoint
    from tests.support.harness import Launcher, Process

DURATION = "messaging.process.duration"
LOST = "billiard.exceptions.WorkerLostError"

# More than the calls and returns of ours at the end of a first run.
STEPS = 600


@pytest.fixture(autouse=True)
def short_interval(child_environ: dict[str, str]) -> None:
    child_environ["OTEL_METRIC_EXPORT_INTERVAL"] = "500"
    child_environ["OTEL_CELERY_QUEUE_METRICS"] = "false"


def named(
    points: Iterable[ReceivedPoint], name: str, **having: Any
) -> list[ReceivedPoint]:
    """Return the points of a metric, with these attributes (``_`` for a dot)."""
    wanted = {key.replace("__", "."): value for key, value in having.items()}
    return [
        point
        for point in points
        if point.metric == name
        and all(point.attributes.get(key) == value for key, value in wanted.items())
    ]


def total(points: Iterable[ReceivedPoint], name: str, **having: Any) -> float:
    """Return the sum of a metric's last points: of a histogram how many values."""
    return sum(each.count or each.value for each in named(points, name, **having))


def assert_nothing_falls(collector: Receiver) -> None:
    """Each series comes from one instance, with one start, and only grows."""
    before: dict[Any, float] = {}
    for point in collector.points:
        if (point.temporality == "cumulative" and point.is_monotonic) or point.count:
            value = point.count or point.value
            assert value >= before.get(point.key, 0), point
            before[point.key] = value
    of_sums = [point for point in collector.points if point.kind != "gauge"]
    assert len({point.start for point in of_sums}) == 1
    instances = {point.resource["service.instance.id"] for point in of_sums}
    assert len(instances) == 1


def kill_children(worker: Process, count: int) -> None:
    main = psutil.Process(worker.popen.pid)
    for child in without_exporters(main.children())[:count]:
        with suppress(psutil.NoSuchProcess):
            child.kill()


POOLS = {
    "prefork": (),
    "spawn": tuple(SPAWN),
    "threads": ("-P", "threads"),
    "solo": ("-P", "solo"),
    "gevent": ("-P", "gevent"),
    "eventlet": ("-P", "eventlet"),
}


@pytest.mark.parametrize("mode", ["process", "inline"])
@pytest.mark.parametrize("pool", [name for name in POOLS if name != "spawn" or SPAWN])
def test_every_run_is_counted_in_every_pool(
    launcher: Launcher, collector: Receiver, broker: str, pool: str, mode: str
) -> None:
    worker = launcher.worker(*POOLS[pool], app="measures", OTEL_CELERY_EXPORT=mode)
    producer = Producer(broker)
    for number in range(40):
        producer.send("measures.order", number)
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    points = collector.last_points()
    assert total(points, DURATION, celery__state="SUCCESS") == 40
    assert total(points, "shop.orders") == 40
    assert total(points, "shop.orders", kind="a") == 20
    assert total(points, "shop.took") == 40
    assert total(points, "messaging.client.consumed.messages") == 40
    assert total(points, "flower.task.runtime.seconds") == 40
    assert total(points, "celery.worker.wait") == 40
    assert_nothing_falls(collector)


@pytest.mark.parametrize(
    ("sampler", "ratio"),
    [("always_on", 1), ("always_off", 0), ("traceidratio", 0.1)],
)
def test_kills_of_children_and_exporter_processes_lose_no_count(
    launcher: Launcher, collector: Receiver, broker: str, sampler: str, ratio: float
) -> None:
    """Recycled children, too, and whatever is sampled."""
    worker = launcher.worker(
        "-c4", "--max-tasks-per-child", "25",
        app="measures",
        SHOP_ACKS_LATE="1",
        OTEL_TRACES_SAMPLER=f"parentbased_{sampler}" if ratio == 1 else sampler,
        OTEL_TRACES_SAMPLER_ARG=str(ratio),
    )  # fmt: skip
    producer = Producer(broker)
    for _ in range(6):
        for number in range(100):
            producer.send("measures.order", number)
        producer.wait_for_results()
        producer.wait_until_acknowledged()
        kill_children(worker, 2)
        with suppress(psutil.NoSuchProcess):
            exporter_of(worker).kill()
        time.sleep(0.3)  # between two kills
    worker.stop()
    points = collector.last_points()
    assert total(points, DURATION) == 600
    assert total(points, "shop.orders") == 600
    assert total(points, "shop.took") == 600
    assert_nothing_falls(collector)
    traces = {span.trace_id for span in collector.spans}
    exemplars = {trace for point in collector.points for trace in point.exemplars}
    # A child that is killed while nothing reads and the kernel's buffer is full takes
    # spans with it. They are counted.
    dropped = total(
        points, "otel.sdk.processor.span.processed", error__type="queue_full"
    )
    assert len(exemplars - traces) <= dropped
    assert bool(exemplars) == bool(ratio)


@pytest.mark.parametrize("sampler", ["parentbased_always_on", "always_off"])
def test_runs_that_are_killed_are_counted_as_failed(
    launcher: Launcher, collector: Receiver, broker: str, sampler: str
) -> None:
    worker = launcher.worker("-c4", app="measures", OTEL_TRACES_SAMPLER=sampler)
    producer = Producer(broker)
    for _ in range(5):
        for _ in range(20):
            producer.send("measures.works", 0.02)
        time.sleep(0.15)
        kill_children(worker, 2)
    for _ in range(3):
        producer.send("measures.dies")
    producer.wait_for_results()
    worker.stop()
    points = collector.last_points()
    begun = total(points, "shop.orders", kind="begun")
    lost = total(points, DURATION, error__type=LOST)
    assert lost >= 3
    of_works = total(points, DURATION, celery__task_name="measures.works")
    # A process may die between Celery's word that it has a task and the task's first line.
    assert 97 <= begun <= of_works == 100
    if sampler != "always_off":
        of_spans = [
            each for each in runs(collector.spans) if "celery.lost" in each.attributes
        ]
        assert lost == len(of_spans)
    assert total(points, "celery.worker.child.ended", celery__reason="killed") >= 3


@pytest.mark.parametrize("how", ["as it began", "changed", "grouped"])
def test_a_process_that_is_killed_at_any_step_of_a_runs_end(
    launcher: Launcher, collector: Receiver, broker: str, how: str
) -> None:
    """At each call and return in turn, in its first run and later: one count, one span."""
    worker = launcher.worker("-c4", app="measures")
    producer = Producer(broker)
    for step in range(0, STEPS, 3):
        producer.send("measures.dies_at_its_end", step, how)
        producer.send("measures.dies_at_its_end", 10 * STEPS, how)
    producer.wait_for_results()
    worker.stop()
    # Celery runs some tasks twice: those that wait where another kills the process.
    begun = worker.output.count("begun\n")
    assert total(collector.last_points(), DURATION) == begun
    spans = runs(collector.spans)
    assert len(spans) == len({span.span_id for span in spans}) == begun


@pytest.mark.parametrize("sampler", ["parentbased_always_on", "always_off"])
@pytest.mark.parametrize("metrics_to", ["otlp", "none"])
def test_a_run_that_is_killed_before_it_is_recorded_is_told_and_counted(
    launcher: Launcher, collector: Receiver, broker: str, sampler: str, metrics_to: str
) -> None:
    """Such as by the kernel, for want of memory, while its payload is decoded."""
    worker = launcher.worker(
        "-c2",
        app="measures",
        OTEL_TRACES_SAMPLER=sampler,
        OTEL_METRICS_EXPORTER=metrics_to,
    )
    register("deadly", json.dumps, json.loads, "application/x-deadly", "utf-8")
    producer = Producer(broker)
    for _ in range(3):
        producer.send("measures.order")
    began = time.time()
    deadly = [producer.send("measures.order", serializer="deadly") for _ in range(3)]
    for result in deadly:
        with pytest.raises(WorkerLostError):
            result.get(timeout=60)
    worker.stop()
    expected = 0 if sampler == "always_off" else 3
    lost = [each for each in runs(collector.spans) if "celery.lost" in each.attributes]
    assert len(lost) == expected
    assert len(runs(collector.spans)) == 2 * expected
    for span in lost:
        assert span.name == "run/measures.order"
        assert producer.parents[span.trace_id] == span.parent_id
        assert span.attributes["messaging.message.id"] in {each.id for each in deadly}
        assert span.attributes["process.pid"] != worker.popen.pid
        assert span.resource["celery.role"] == "worker"
        assert began <= span.start <= span.end
        assert span.attributes["celery.wait.worker"] >= 0
    points = collector.last_points() if metrics_to == "otlp" else []
    if points:
        assert total(points, DURATION) == 6
        assert total(points, DURATION, error__type=LOST) == 3


def test_what_a_dead_process_had_up_is_gone(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="measures")
    producer = Producer(broker)
    producer.send("measures.holds_a_cart", 60)
    collector.wait_for_points(lambda all_: total(all_, "shop.carts") == 1, 20)
    kill_children(worker, 1)

    def is_gone(_: list[ReceivedPoint]) -> bool:
        carts = named(collector.points, "shop.carts")
        newest = max(collector.points, key=lambda point: point.time).time
        return carts[-1].value == 0 or newest - carts[-1].time > 1

    assert is_gone(collector.wait_for_points(is_gone, 20))


def test_a_collector_that_is_away_costs_no_count(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(app="measures")
    producer = Producer(broker)
    producer.send("measures.order")
    collector.wait_for_points(lambda all_: total(all_, DURATION) == 1, 20)
    collector.stop()
    for number in range(199):
        producer.send("measures.order", number)
    producer.wait_for_results()
    worker.wait_for_output("spans do not reach")
    collector.points.clear()
    collector.start()
    found = collector.wait_for_points(lambda all_: total(all_, DURATION) > 0, 30)
    assert total(found, DURATION) == 200
    worker.stop()
    assert total(collector.last_points(), DURATION) == 200


def test_a_collector_for_traces_alone_costs_one_line(
    launcher: Launcher, broker: str
) -> None:
    with Receiver(takes_metrics=False) as traces_only:
        worker = launcher.worker(
            app="measures", OTEL_EXPORTER_OTLP_ENDPOINT=traces_only.endpoint
        )
        producer = Producer(broker)
        for number in range(100):
            producer.send("measures.order", number)
        producer.wait_for_results()
        worker.wait_for_output("takes no metrics")
        time.sleep(2)  # four intervals
        producer.wait_until_acknowledged()
        seconds = worker.stop()
        assert worker.output.count("takes no metrics") == 1
        assert "OTEL_METRICS_EXPORTER=none" in worker.output
        assert worker.output.count("metrics do not reach") == 0
        assert len(runs(traces_only.spans)) == 100
        assert seconds < 10


def test_two_thousand_sets_and_one_for_the_rest(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="measures")
    producer = Producer(broker)
    producer.send("measures.many_sets", 5000)
    producer.wait_for_results()
    worker.stop()
    points = named(collector.last_points(), "shop.orders")
    rest = [point for point in points if "otel.metric.overflow" in point.attributes]
    assert len(points) == 2001
    assert len(rest) == 1
    assert total(points, "shop.orders") == 5000


def test_what_the_api_does_not_allow_does_no_harm(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="measures")
    producer = Producer(broker)
    assert producer.send("measures.hostile").get(timeout=20) is True
    producer.send("measures.forks")
    producer.wait_for_results()
    worker.stop()
    points = collector.last_points()
    assert total(points, "shop.orders", kind="fork") == 2
    assert total(points, DURATION, celery__state="SUCCESS") == 2


def test_soft_limits_come_through_measurements(launcher: Launcher, broker: str) -> None:
    launcher.worker("-c1", app="measures")
    producer = Producer(broker)
    assert producer.send("measures.soft_limits", 300).get(timeout=60) == 0


def test_a_process_that_has_lost_its_lock_keeps_its_row(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Code that closes all descriptors ends the lock, and others claim rows meanwhile."""
    worker = launcher.worker("-c4", "--max-tasks-per-child", "10", app="measures")
    producer = Producer(broker)
    for number in range(8):
        producer.send("measures.order", number)
    producer.send("measures.closes_all")
    for number in range(300):
        producer.send("measures.order", number)
    with suppress(Exception):
        producer.wait_for_results(20)
    worker.stop()
    points = collector.last_points()
    assert total(points, "shop.orders") == total(
        points, DURATION, celery__task_name="measures.order", celery__state="SUCCESS"
    )


def test_a_callback_that_hangs_is_given_up(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="measures", SHOP_HANGS="1")
    producer = Producer(broker)
    for number in range(20):
        producer.send("measures.order", number)
    producer.wait_for_results()
    found = collector.wait_for_points(lambda all_: bool(named(all_, "shop.behind")), 40)
    assert named(found, "shop.behind")[0].value == 7
    assert named(found, "shop.shelves")[0].value == 7
    assert "shop.hangs has not returned" in worker.output
    worker.wait_for_output("shop.raises has raised")
    worker.stop()


def test_deltas_add_up_to_what_was_counted(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(
        app="measures",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_CELERY_SHUTDOWN_SECONDS="30",  # of a busy machine
    )
    producer = Producer(broker)
    for _ in range(4):
        for number in range(50):
            producer.send("measures.order", number)
        producer.wait_for_results()
        time.sleep(0.7)  # an interval
    worker.stop()
    points = named(collector.points, DURATION)
    assert {point.temporality for point in points} == {"delta"}
    assert sum(point.count for point in points) == 200
    assert sum(point.value for point in named(collector.points, "shop.orders")) == 200
    assert len(points) > 1
    for before, after in pairwise(points):
        assert after.start >= before.time - 0.001


def test_deltas_of_a_killed_exporter_process_miss_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(
        app="measures",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_CELERY_SHUTDOWN_SECONDS="30",  # of a busy machine
    )
    producer = Producer(broker)
    for _ in range(4):
        for number in range(50):
            producer.send("measures.order", number)
        producer.wait_for_results()
        time.sleep(0.4)
        exporter_of(worker).kill()
    worker.stop()
    counts = [point.count for point in named(collector.points, DURATION)]
    assert sum(counts) >= 200, (counts, worker.output)
    assert sum(counts) <= 200 + 4 * max(counts)


def test_exponential_histograms(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(
        app="measures",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
    )
    producer = Producer(broker)
    for number in range(30):
        producer.send("measures.order", number)
    producer.wait_for_results()
    worker.stop()
    (point,) = named(collector.last_points(), "shop.took")
    assert point.kind == "exponential_histogram"
    assert point.count == sum(point.buckets) == 30
    assert total(collector.last_points(), DURATION) == 30


def test_metrics_can_be_turned_off(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(app="measures", OTEL_METRICS_EXPORTER="none")
    producer = Producer(broker)
    producer.send("measures.order")
    producer.wait_for_results()
    worker.stop()
    assert collector.points == []
    assert len(runs(collector.spans)) == 1
    assert "no metrics" in worker.output


def test_metrics_without_spans(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(
        app="measures", OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="otlp"
    )
    producer = Producer(broker)
    for number in range(20):
        producer.send("measures.order", number)
    producer.wait_for_results()
    worker.stop()
    assert total(collector.last_points(), DURATION) == 20
    assert collector.spans == []


def test_the_console(launcher: Launcher, broker: str) -> None:
    worker = launcher.worker(app="measures", OTEL_METRICS_EXPORTER="console")
    producer = Producer(broker)
    producer.send("measures.order")
    producer.wait_for_results()
    worker.wait_for_output("messaging.process.duration")
    worker.stop()


def test_failures_and_their_type(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(app="measures")
    producer = Producer(broker)
    producer.send("measures.fails")
    producer.send("measures.no_such_task")
    producer.send("measures.order", expires=0.0001, countdown=1)
    wait_until(lambda: producer.results[0].ready(), 20, "it has failed")
    collector.wait_for_points(lambda all_: total(all_, "celery.tasks.unrun") == 2, 20)
    worker.stop()
    points = collector.last_points()
    (failed,) = named(points, DURATION, celery__state="FAILURE")
    assert failed.attributes["error.type"] == "ValueError"
    reasons = {
        (point.attributes["celery.task_name"], point.attributes["celery.reason"])
        for point in named(points, "celery.tasks.unrun")
    }
    assert reasons == {("_OTHER", "unknown"), ("measures.order", "expired")}


def test_every_builtin_metric_arrives(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """A worker with beat, of which everything happens once; a row left out fails."""
    worker = launcher.worker(
        "-B", "-c2", "--max-tasks-per-child", "3",
        app="shop",
        OTEL_CELERY_QUEUE_METRICS="true",
    )  # fmt: skip
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.send("shop.no_such_task")
    producer.app.send_task("shop.noop")  # without a trace context
    # Consumers are RabbitMQ's, and a lost connection has tests of its own.
    elsewhere = {"celery.queue.consumers", "celery.broker.reconnects"}
    expected = set(BUILTINS) - elsewhere

    def is_all_there(points: list[ReceivedPoint]) -> bool:
        return expected <= {point.metric for point in points}

    found = {point.metric for point in collector.wait_for_points(is_all_there, 40)}
    assert expected - found == set()
    worker.stop()
    for point in collector.points:
        builtin = BUILTINS.get(point.metric)
        if builtin is not None:
            assert set(point.attributes) <= set(builtin.attributes), point
            assert point.unit == builtin.description.unit


def test_queue_depth_counts_all_priorities(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """LLEN of the queue would say 2."""
    producer = Producer(broker)
    producer.app.conf.broker_transport_options = {"queue_order_strategy": "priority"}
    for priority in (0, 0, 3, 3, 9, 9):
        producer.app.send_task("shop.nap", (60,), queue="later", priority=priority)
    worker = launcher.worker(
        "-c1", "-Q", "celery,later", "--prefetch-multiplier", "1",
        OTEL_CELERY_QUEUE_METRICS="true",
    )  # fmt: skip
    found = collector.wait_for_points(
        lambda all_: (
            total(all_, "celery.queue.messages", celery__queue__state="ready") > 0
        ),
        30,
    )
    in_queue = total(
        found, "celery.queue.messages", messaging__destination__name="later",
        celery__queue__state="ready",
    )  # fmt: skip
    kill_children(worker, 1)
    worker.popen.kill()
    assert in_queue == 4  # one runs, and one is reserved


def test_prometheus_is_one_page_for_the_whole_worker(
    launcher: Launcher, broker: str
) -> None:
    port = free_port()
    worker = launcher.worker(
        app="measures",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    producer = Producer(broker)
    for number in range(30):
        producer.send("measures.order", number)
    producer.wait_for_results()

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
                return str(answer.read().decode())
        except OSError:  # it does not listen yet
            return ""

    def counted() -> float:
        found = re.findall(r"^shop_orders\w*_total{.*} (\S+)", page(), re.MULTILINE)
        return sum(map(float, found))

    wait_until(lambda: counted() == 30, 15, "30 orders are on the page")
    exporter_of(worker).kill()
    wait_until(lambda: counted() == 30, 15, "they are on its successor's")
    worker.stop()


def test_a_port_that_is_taken_is_said(launcher: Launcher, broker: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        worker = launcher.worker(
            app="measures",
            OTEL_METRICS_EXPORTER="prometheus",
            OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(taken.getsockname()[1]),
        )
        producer = Producer(broker)
        producer.send("measures.order")
        producer.wait_for_results()
        worker.wait_for_output("an exporter of metrics cannot start")
        worker.stop()


def test_queues_and_their_consumers_on_rabbitmq(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    child_environ: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    producer = producer_on("rabbitmq", request, child_environ, broker)
    worker = launcher.worker("-c1", OTEL_CELERY_QUEUE_METRICS="true")
    producer.send_many("shop.nap", 6, 3)
    found = collector.wait_for_points(
        lambda all_: total(all_, "celery.queue.consumers") > 0, 30
    )
    (consumers,) = named(found, "celery.queue.consumers")
    assert consumers.value == 1
    assert named(found, "celery.queue.messages", celery__queue__state="ready")
    worker.popen.kill()


def test_a_broker_that_is_away_stops_nothing_of_the_worker(
    launcher: Launcher, collector: Receiver, tmp_path: Path
) -> None:
    """Its depth is not known meanwhile; the connection is counted when it is back."""
    port = free_port()
    with run_redis(tmp_path, port) as url:
        worker = launcher.worker(
            "-c1",
            OTEL_CELERY_QUEUE_METRICS="true",
            SHOP_BROKER=f"{url}/0",
            SHOP_BACKEND="cache+memory://",
        )
        collector.wait_for_points(
            lambda all_: bool(named(all_, "celery.queue.messages")), 30
        )
    worker.wait_for_output("Connection to broker lost")

    def is_unknown(_: list[ReceivedPoint]) -> bool:
        depths = named(collector.points, "celery.queue.messages")
        newest = max(point.time for point in collector.points)
        return newest - depths[-1].time > 1

    assert is_unknown(collector.wait_for_points(is_unknown, 30))
    (connected,) = named(collector.last_points(), "celery.broker.connected")
    assert connected.value == 0
    assert not total(collector.points, "celery.broker.reconnects")
    collector.points.clear()
    with run_redis(tmp_path, port):
        collector.wait_for_points(
            lambda all_: (
                total(all_, "celery.broker.connected") == 1
                and total(all_, "celery.broker.reconnects") == 1
                and bool(named(all_, "celery.queue.messages"))
            ),
            40,
        )
        worker.popen.kill()


def test_autoscale_and_beat_keep_one_series(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("--autoscale", "6,1", "-B", app="measures")
    producer = Producer(broker)
    for _ in range(60):
        producer.send("measures.works", 0.1)
    producer.wait_for_results()
    worker.stop()
    points = collector.last_points()
    assert total(points, DURATION) == 60
    assert_nothing_falls(collector)


def test_a_worker_with_two_hundred_children(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.start("-A", "measures", "worker", "-l", "INFO", "-c200")
    worker.wait_for_output(" ready.", 120)
    producer = Producer(broker)
    for _ in range(400):
        producer.send("measures.works", 0.2)
    producer.wait_for_results(90)
    worker.stop(seconds=120)
    points = collector.last_points()
    assert total(points, DURATION) == 400
    assert total(points, "shop.orders") == 400
    assert_nothing_falls(collector)


def test_a_secret_in_the_brokers_url_is_nowhere(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Not in the environment or the arguments of any process, nor on the wire."""
    url = broker.replace("redis://", "redis://:c4n4ry@")
    (launcher.folder / "secretive.py").write_text(
        f"from celery import Celery\napp = Celery(broker={url!r})\n"
    )
    worker = launcher.worker("-c1", app="secretive", OTEL_CELERY_QUEUE_METRICS="true")
    seen: list[str] = []
    end = time.monotonic() + 8
    while time.monotonic() < end:
        for process in psutil.Process(worker.popen.pid).children(recursive=True):
            with suppress(psutil.Error):
                seen += [*process.cmdline(), *process.environ().values()]
        time.sleep(0.02)
    worker.stop()
    assert not any("c4n4ry" in text for text in seen)
    assert "c4n4ry" not in repr(collector.points)
    assert "c4n4ry" not in worker.output
