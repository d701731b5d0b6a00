"""What a trace tells: publishes, waits, and where a trace context is found."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from tests.support.harness import Producer, runs, wait_until
from tests.support.servers import producer_on

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher


@pytest.fixture(params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


def tree(spans: list[ReceivedSpan]) -> list[str]:
    """Return the names of a trace, indented by depth; brothers in order of name."""
    below: dict[str, list[ReceivedSpan]] = {}
    ids = {span.span_id for span in spans}
    for span in spans:
        below.setdefault(span.parent_id if span.parent_id in ids else "", []).append(
            span
        )

    def lines(parent: str, depth: int) -> list[str]:
        found = []
        for span in sorted(
            below.get(parent, []), key=lambda span: (span.name, span.start)
        ):
            error = " ERROR" if span.is_error else ""
            found.append(f"{'  ' * depth}{span.name}{error}")
            found += lines(span.span_id, depth + 1)
        return found

    return lines("", 0)


@pytest.mark.parametrize(
    ("kind", "mode", "times"),
    [
        ("broker down", "process", 2_000),  # each tries to connect
        ("serialisation", "inline", 10_000),
        ("serialisation", "process", 2_000),
        ("broker down", "inline", 200),
    ],
)
@pytest.mark.timeout(200)
def test_failed_publishes_are_errors_and_leave_nothing_behind(
    launcher: Launcher, collector: Receiver, broker: str,
    kind: str, mode: str, times: int,
) -> None:  # fmt: skip
    """Thousands of times: the context is as before, nothing grows."""
    queue = {"OTEL_BSP_MAX_QUEUE_SIZE": "20000"}
    worker = launcher.worker("-c1", app="traces", OTEL_CELERY_EXPORT=mode, **queue)
    producer = Producer(broker)
    result = producer.send("traces.publish_badly", kind, times)
    errors, stayed, is_same = result.get(timeout=150)
    assert errors == [
        {"serialisation": "EncodeError", "broker down": "OperationalError"}[kind]
    ]
    assert is_same
    assert stayed < 100 + times // 25
    worker.stop()
    collector.wait_for(lambda spans: len(spans) > times, 20)
    (run,) = runs(collector.spans)
    failed = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert len(failed) == times
    assert all(span.is_error and span.parent_id == run.span_id for span in failed)
    assert {span.attributes["error.type"].rpartition(".")[2] for span in failed} == set(
        errors
    )


def test_publish_of_a_foreign_task_has_its_real_duration(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="traces")
    producer = Producer(broker)
    producer.send("traces.slow_publish")
    producer.wait_for_results()
    worker.stop()
    (publish,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert publish.name == "apply_async/nobody.knows"
    assert publish.end - publish.start > 0.0002
    assert publish.attributes["messaging.destination.name"] == "elsewhere"
    assert publish.attributes["messaging.system"] == "redis"


CANVAS = {
    "chain": """
run/traces.canvas
  apply_async/traces.add
    run/traces.add
      apply_async/traces.add
        run/traces.add
          apply_async/traces.add
            run/traces.add
""",
    "group": """
run/traces.canvas
  apply_async/traces.add
    run/traces.add
  apply_async/traces.add
    run/traces.add
""",
    "errback": """
run/traces.canvas
  apply_async/traces.fail
    run/traces.fail ERROR
      apply_async/traces.note
        run/traces.note
""",
    "replace": """
run/traces.canvas
  apply_async/traces.replaced
    run/traces.replaced
      apply_async/traces.add
        run/traces.add
""",
}


@pytest.mark.parametrize("kind", CANVAS)
def test_canvas_is_one_trace(
    launcher: Launcher, collector: Receiver, broker: str, kind: str
) -> None:
    golden = CANVAS[kind].strip().splitlines()
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send("traces.canvas", kind)
    producer.wait_for_results()
    wait_until(lambda: len(collector.spans) >= len(golden), 20, "the trace is complete")
    worker.stop()
    assert tree(collector.spans) == golden
    assert {span.trace_id for span in collector.spans} == set(producer.parents)


@pytest.mark.parametrize("kind", ["chord", "nested"])
def test_chords_are_one_trace(
    launcher: Launcher, collector: Receiver, broker: str, kind: str
) -> None:
    """Who publishes the callback depends on which member ends last."""
    expected: dict[str, tuple[str, ...]] = {}
    expected["chord"] = ("traces.add", "traces.add", "traces.total")
    expected["nested"] = ("traces.add", "traces.add", "traces.add", "traces.total")
    names = sorted(f"run/{name}" for name in (*expected[kind], "traces.canvas"))
    worker = launcher.worker(app="traces")
    producer = Producer(broker)
    producer.send("traces.canvas", kind)
    wait_until(
        lambda: sorted(span.name for span in runs(collector.spans)) == names,
        20,
        "all have run",
    )
    worker.stop()
    assert {span.trace_id for span in collector.spans} == set(producer.parents)
    ids = {span.span_id for span in collector.spans} | set(producer.parents.values())
    assert all(span.parent_id in ids for span in collector.spans)


def test_eager_tasks_belong_to_their_caller(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="traces")
    producer = Producer(broker)
    producer.send("traces.eager")
    producer.wait_for_results()
    worker.stop()
    assert tree(collector.spans) == [
        "run/traces.eager", "  around", "    run/traces.add",
    ]  # fmt: skip


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_what_a_task_leaks_ends_with_it(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """The next task in the same process begins clean."""
    worker = launcher.worker(
        "-c1", "-P", pool, app="traces", OTEL_CELERY_EXPORT="process"
    )
    producer = Producer(broker)
    for _ in range(3):
        producer.send("traces.leaks")
        result = producer.send("traces.context")
        trace_id = list(producer.parents)[-1]
        assert result.get(timeout=20) == [trace_id, {}]
    bare = producer.app.send_task("traces.context")
    trace_id, _ = bare.get(timeout=20)
    assert trace_id not in producer.parents
    worker.stop()
    (root,) = [span for span in runs(collector.spans) if span.trace_id == trace_id]
    assert not root.parent_id


@pytest.fixture(params=["redis", "rabbitmq"])
def producer(
    request: pytest.FixtureRequest, child_environ: dict[str, str], broker: str
) -> Producer:
    return producer_on(request.param, request, child_environ, broker)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_waits_are_on_the_run_span(
    launcher: Launcher, collector: Receiver, producer: Producer, pool: str
) -> None:
    """A task that waits in the broker, one that waits in the worker, one with a countdown."""
    options = ["--prefetch-multiplier", "8", "-c1", "-P", pool]
    worker = launcher.worker(*options, OTEL_CELERY_EXPORT="process")
    ago = {"otel_celery_published": time.time() - 5}
    producer.send("shop.nap", 0.6, headers=ago)
    if pool != "solo":  # which receives a task when it runs it
        producer.send("shop.noop")
    producer.send("shop.noop", countdown=2)
    skewed = {"otel_celery_published": time.time() + 1000}
    producer.send("shop.baggage_of", "x", headers=skewed)
    producer.wait_for_results()
    worker.stop()
    spans = {}
    for span in runs(collector.spans):
        spans[int(span.trace_id, 16)] = span.attributes
    first, last = spans.pop(1), spans.pop(max(spans))
    assert 5 <= first["celery.wait.broker"] < 8
    assert 0 <= first["celery.wait.worker"] < 0.5
    assert "celery.wait.broker" not in last
    counted = spans.pop(max(spans))
    assert 0 <= counted["celery.wait.worker"] < 1.5
    if spans and pool != "gevent":
        (waiting,) = spans.values()
        assert 0.3 < waiting["celery.wait.worker"] < 1.5


def carrier(producer: Producer) -> dict[str, str]:
    """Return a new trace's carrier, noted as one of the producer's."""
    number = len(producer.parents) + 1
    trace_id, span_id = f"{number:032x}", f"{number:016x}"
    producer.parents[trace_id] = span_id
    return {"traceparent": f"00-{trace_id}-{span_id}-01", "baggage": "tenant_id=acme"}


def test_hand_written_carriers_are_read(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Half-migrated fleets: `otel_context`, `_otel`, protocol 1; none is a clean root."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    app = producer.app
    old = Celery("old", broker=broker, backend=broker, set_as_current=False)
    old.conf.task_protocol = 1
    results = [
        app.send_task(
            "shop.baggage_of",
            ("tenant_id",),
            headers={"otel_context": carrier(producer)},
        ),
        app.send_task("shop.takes", kwargs={"_otel": carrier(producer)}),
        app.send_task("shop.takes", ({"_otel": carrier(producer), "order": 1},)),
        old.send_task("shop.baggage_of", ("tenant_id",), headers=carrier(producer)),
    ]
    bare = app.send_task("shop.noop")
    assert [result.get(timeout=20) for result in results] == ["acme"] * 4
    bare.get(timeout=20)
    worker.stop()
    found = {span.trace_id: span.parent_id for span in runs(collector.spans)}
    root = next(iter(set(found) - set(producer.parents)))
    assert not found.pop(root)
    assert found == producer.parents
    assert len(worker.own_lines) == 1


@pytest.mark.parametrize("propagator", ["b3", "b3multi", "jaeger", "xray"])
def test_other_propagators_go_there_and_back(
    launcher: Launcher, collector: Receiver, broker: str, propagator: str
) -> None:
    worker = launcher.worker("-c1", OTEL_PROPAGATORS=propagator)
    producer = Producer(broker)
    producer.app.send_task("shop.publish_noop").get(timeout=20)
    collector.wait_for(lambda spans: len(runs(spans)) >= 2, 10)
    worker.stop()
    assert tree(collector.spans) == [
        "run/shop.publish_noop", "  apply_async/shop.noop", "    run/shop.noop",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def redis_instrumentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Apart from the other tests: the launcher turns on all that is installed."""
    folder = tmp_path_factory.mktemp("instrumentation")
    release = version("opentelemetry-instrumentation-celery")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
         folder, f"opentelemetry-instrumentation-redis=={release}"],
        check=True,
    )  # fmt: skip
    source = folder / "opentelemetry" / "instrumentation" / "redis" / "__init__.py"
    if "is_instrumentation_enabled" not in source.read_text():
        pytest.skip("this release of the instrumentation cannot be told to be quiet")
    return folder


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_polling_the_broker_makes_no_spans_a_tasks_own_calls_do(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    pool: str,
    redis_instrumentation: Path,
) -> None:
    worker = launcher.worker(
        "-c2", "-P", pool, "-E", app="traces",
        PYTHONPATH=f"{launcher.environ['PYTHONPATH']}:{redis_instrumentation}",
    )  # fmt: skip
    assert "instrumented: celery redis" in worker.output
    producer = Producer(broker)
    for _ in range(5):
        producer.send("traces.asks_redis")
    producer.wait_for_results()
    worker.stop()
    asked = [span for span in collector.spans if span.name == "GET"]
    ids = {span.span_id for span in runs(collector.spans)}
    assert len(ids) == 5
    assert {span.parent_id for span in asked} == ids
    assert {span.trace_id for span in collector.spans} == set(producer.parents)


def test_a_retry_tells_its_own_waits(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """A retry hands its request's headers on: none of the first publish is left."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    producer.send("shop.flaky", 2, headers={"otel_celery_published": time.time() - 50})
    producer.wait_for_results()
    worker.stop()
    waited = sorted(s.attributes["celery.wait.broker"] for s in runs(collector.spans))
    assert len(waited) == 3
    assert max(waited[:2]) < 5
    assert waited[2] > 49


def test_an_eta_of_a_date_is_no_wait(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    eta = datetime.now(timezone.utc) + timedelta(seconds=2)
    producer.send("shop.noop", eta=eta)
    producer.wait_for_results()
    worker.stop()
    (run,) = runs(collector.spans)
    assert run.attributes["celery.wait.worker"] < 1.5
