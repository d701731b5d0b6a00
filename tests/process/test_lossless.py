"""Run spans received = tasks run, each once, each under its producer's span."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import SPAWN, Producer, assert_each_run_once, runs

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher, StartWorker


@pytest.fixture(autouse=True, params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    """Both ways to export keep the same promises."""
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


POOLS = {
    "prefork": [],
    "spawn": SPAWN,
    "solo": ["-P", "solo"],
    "threads": ["-P", "threads"],
    "one task per child": ["--max-tasks-per-child", "1"],
    "two tasks per child": ["--max-tasks-per-child", "2"],
    "ten tasks per child": ["--max-tasks-per-child", "10"],
    "memory per child": ["--max-memory-per-child", "1"],
}
# A recycled child costs Celery some 0.3 s, so there are fewer tasks.
COUNTS = {"one task per child": 20, "two tasks per child": 40, "memory per child": 20}


if not SPAWN:  # Celery before 5.7 forks only
    del POOLS["spawn"]


@pytest.mark.parametrize("pool", POOLS)
def test_warm_stop_right_after_the_last_task_loses_nothing(
    traced_worker: StartWorker, pool: str
) -> None:
    """README: run spans received = tasks run, in every pool."""
    with traced_worker(*POOLS[pool]) as worker:
        worker.run("shop.noop", COUNTS.get(pool, 200))
    assert worker.process.popen.returncode == 0


def test_cold_stop_keeps_the_spans_of_tasks_that_ended(
    traced_worker: StartWorker,
) -> None:
    """A cold stop (SIGQUIT) right after the last task loses nothing either."""
    with traced_worker(stop=signal.SIGQUIT) as worker:
        worker.run("shop.noop", 50)


def test_acks_late_loses_nothing(traced_worker: StartWorker) -> None:
    """Late acknowledgement with recycled children."""
    with traced_worker("--max-tasks-per-child", "5", SHOP_ACKS_LATE="1") as worker:
        worker.run("shop.noop", 30)


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_what_runs_publish_is_in_the_same_trace(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """request -> run -> publish -> run is one trace, each under the one before."""
    worker = launcher.worker("-P", pool)
    producer = Producer(broker)
    producer.send("shop.publish_noop")
    spans = collector.wait_for(lambda spans: len(spans) >= 3, 15)
    worker.stop()
    outer, publish, inner = sorted(spans, key=lambda span: span.start)
    assert (outer.name, outer.kind) == ("run/shop.publish_noop", "CONSUMER")
    assert (publish.name, publish.kind) == ("apply_async/shop.noop", "PRODUCER")
    assert (inner.name, inner.kind) == ("run/shop.noop", "CONSUMER")
    assert publish.parent_id == outer.span_id
    assert inner.parent_id == publish.span_id
    assert {span.trace_id for span in spans} == set(producer.parents)


def test_retries_stay_in_one_trace(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Each retry's run is a child of the publish that caused it."""
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send("shop.flaky", 2)
    producer.wait_for_results()
    worker.stop()
    spans = collector.wait_for(lambda spans: len(spans) >= 5, 10)
    assert {span.trace_id for span in spans} == set(producer.parents)
    by_id = {span.span_id: span for span in spans}
    last = max(runs(spans), key=lambda span: span.start)
    depth = 0
    while last.parent_id in by_id:
        last, depth = by_id[last.parent_id], depth + 1
    assert depth == 4  # run < publish < run < publish < run
    assert not any(span.is_error for span in spans)


def test_baggage_of_the_request_is_read_in_the_task(
    launcher: Launcher, broker: str
) -> None:
    """Baggage travels with the trace."""
    launcher.worker()
    producer = Producer(broker)
    result = producer.send(
        "shop.baggage_of", "tenant_id", headers={"baggage": "tenant_id=acme"}
    )
    assert result.get(timeout=20) == "acme"


@pytest.mark.parametrize("mode", ["process", "inline"])
def test_a_value_that_cannot_be_encoded_refuses_no_other_span(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """Lone surrogates and integers over 64 bits: a batch with one would be refused."""
    worker = launcher.worker("-c1", OTEL_CELERY_EXPORT=mode)
    producer = Producer(broker)
    producer.send("shop.unencodable")
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
    values = {span.attributes.get("value") for span in collector.spans}
    assert values == {None, "lone ? surrogate", str(2**80), "fine"}


def test_tracer_taken_at_import_makes_spans_under_the_run(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`tracer = trace.get_tracer(...)` at module level works in every child."""
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send("shop.inner", 5)
    producer.wait_for_results()
    worker.stop()
    spans = collector.wait_for(lambda spans: len(spans) >= 6, 10)
    (run,) = runs(spans)
    steps = [span for span in spans if span.name.startswith("step")]
    assert [span.parent_id for span in steps] == [run.span_id] * 5
    # One resource for all: the child's own, also on tracers made before the fork.
    assert len({span.resource["service.instance.id"] for span in spans}) == 1


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_publish_in_a_worker_signal_is_exported_while_the_worker_runs(
    launcher: Launcher, collector: Receiver, pool: str
) -> None:
    """The main process's own spans arrive, with no stop needed."""
    launcher.worker("-P", pool, SHOP_GREETS="1", OTEL_BSP_SCHEDULE_DELAY="200")
    spans = collector.wait_for(lambda spans: len(spans) >= 2, 15)
    publish = next(span for span in spans if span.kind == "PRODUCER")
    (run,) = runs(spans)
    assert run.parent_id == publish.span_id


@pytest.mark.parametrize("form", ["beat", "embedded"])
def test_beat_publishes_each_tick_in_a_trace_of_its_own(
    launcher: Launcher, collector: Receiver, broker: str, form: str
) -> None:
    """Beat's publish and the task's run are one trace; each tick another."""
    if form == "beat":
        launcher.worker()
        beat = launcher.start("-A", "shop", "beat", "--max-interval", "1")
    else:
        beat = launcher.worker("-B")
    collector.wait_for(lambda spans: len(runs(spans)) >= 3, 20)
    beat.stop()
    collector.wait_for(
        lambda spans: {s.trace_id for s in runs(spans)} <= publishes(spans), 10
    )
    found = collector.spans
    assert {span.trace_id for span in runs(found)} <= publishes(found)
    assert len({span.trace_id for span in runs(found)}) == len(runs(found)) >= 3
    service = "shop-beat" if form == "beat" else "shop-worker"
    assert {s.service for s in found if s.kind == "PRODUCER"} == {service}


def publishes(spans: list[ReceivedSpan]) -> set[str]:
    return {span.trace_id for span in spans if span.kind == "PRODUCER"}


def test_recycled_children_are_not_new_instances(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`service.instance.id` belongs to the slot of the pool, not to the process."""
    worker = launcher.worker("--max-tasks-per-child", "1")
    producer = Producer(broker)
    producer.send_many("shop.noop", 8)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
    spans = runs(collector.spans)
    assert len({span.attributes["process.pid"] for span in spans}) == 8
    assert len({span.resource["service.instance.id"] for span in spans}) <= 2
    assert {span.resource["celery.role"] for span in spans} == {"worker"}


def test_processes_started_by_a_task_make_no_span_twice(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """A process forked from an exporting one neither hangs nor repeats spans."""
    worker = launcher.worker(
        "-c1",
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_CELERY_SHUTDOWN_SECONDS="20",  # of a busy machine; how long is not the point
    )
    producer = Producer(broker)
    for _ in range(10):
        producer.send("shop.noop")
        producer.send("shop.forks")
        producer.send("shop.child_process")
        producer.send("shop.multiprocesses")
    producer.wait_for_results(30)
    assert all(result.get() == 0 for result in producer.results)
    worker.stop()
    assert_each_run_once(collector, producer)


def test_multiprocessings_own_spawned_processes_are_left_alone(
    launcher: Launcher, broker: str
) -> None:
    """They run the application's main module, not ours (solo: billiard forbids it)."""
    launcher.worker("-P", "solo")
    assert Producer(broker).send("shop.spawns").get(timeout=60) == 42


def test_soft_time_limits_are_never_swallowed(launcher: Launcher, broker: str) -> None:
    """300 soft limits at random bytecodes of a span loop: each ends the loop."""
    launcher.worker("-c1")
    producer = Producer(broker)
    result = producer.send("shop.soft_limits", 300)
    assert result.get(timeout=60) == 0
