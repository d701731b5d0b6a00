"""What an application does to tracing, and what tracing may never do to an application."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import celery
import pytest
import redis

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import (
    Producer,
    assert_each_run_once,
    hanging_process,
    run_some,
    run_tasks,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher, Process

POOLS = ["prefork", "threads", "solo"]


def named(spans: Sequence[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


def wait_for(collector: Receiver, name: str, count: int = 1) -> list[ReceivedSpan]:
    """Return the spans of a name once there are so many."""
    wait_until(
        lambda: len(named(collector.spans, name)) >= count, 20, f"{count} {name} spans"
    )
    return named(collector.spans, name)


def run_program(launcher: Launcher, code: str, *options: str) -> Process:
    (launcher.folder / "program.py").write_text(code)
    return launcher.start("exec", *options, "--", sys.executable, "program.py")


# Workers that a program starts by itself.

STARTS = """
from harmless import app, noop
if __name__ == "__main__":
    app.Worker(loglevel="INFO", concurrency=1, pool_cls={pool!r}).start()
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_a_program_starts_is_traced(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """``app.Worker`` takes the pool as a name."""
    code = STARTS.format(pool=pool)
    worker = run_program(launcher, code, "--role", "worker").wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 10)
    worker.stop()
    assert_each_run_once(collector, producer)


TESTS_ITSELF = """
import otel_celery_launcher
otel_celery_launcher.setup(role="worker")
from celery.contrib.testing.worker import start_worker
from harmless import app, noop
with start_worker(app, perform_ping_check=False):
    assert noop.delay(3).get(timeout=20) == 3
"""


def test_a_worker_of_celerys_own_test_kit_is_traced(
    launcher: Launcher, collector: Receiver
) -> None:
    (launcher.folder / "program.py").write_text(TESTS_ITSELF)
    done = launcher.run("program.py", program=Path(sys.executable))
    assert done.returncode == 0, done.stderr
    assert len(wait_for(collector, "run/shop.noop")) == 1


FORKS_IN_C = """
import ctypes, os, signal, sys, types
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
import otel_celery_launcher
otel_celery_launcher.setup(role="web")
from opentelemetry import trace
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    with trace.get_tracer("app").start_as_current_span("request"):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
print("reaped", flush=True)
signal.pause()
"""


def test_spans_below_uwsgi_leave_at_once(
    launcher: Launcher, collector: Receiver
) -> None:
    """uWSGI forks in C, past Python's hooks, and may never let a second thread run."""
    (launcher.folder / "program.py").write_text(FORKS_IN_C)
    program = launcher.start("program.py", program=Path(sys.executable))
    program.wait_for_output("reaped")
    assert len(wait_for(collector, "request")) == 1


# Instrumenting late, again, and with arguments.

LATE = """
import otel_celery_launcher
from shop import noop
noop.delay()
otel_celery_launcher.setup()
noop.delay()
"""


def test_publishes_after_a_late_setup_are_traced(
    launcher: Launcher, collector: Receiver
) -> None:
    """The application has published before: Celery keeps what sends its messages."""
    (launcher.folder / "program.py").write_text(LATE)
    assert launcher.run("program.py", program=Path(sys.executable)).returncode == 0
    assert [span.name for span in collector.spans] == ["apply_async/shop.noop"]


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_instruments_again_has_one_run(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    options = ["-P", pool, "-c1", "--max-tasks-per-child", "1"]
    _, producer = run_tasks(
        launcher, broker, *options[: 3 if pool != "prefork" else 5],
        app="harmless", count=3, task="harmless.instruments_again",
    )  # fmt: skip
    assert_each_run_once(collector, producer)
    assert not any("celery.lost" in span.attributes for span in collector.spans)


@pytest.mark.parametrize(
    "does", ["provider", "wrapped provider", "sets wrapped provider"]
)
def test_a_provider_of_the_applications_gets_its_spans_and_so_do_we(
    launcher: Launcher, collector: Receiver, broker: str, does: str
) -> None:
    """Each span once at either; Logfire's provider is one around the SDK's."""
    with Receiver() as own:
        worker, producer = run_tasks(
            launcher, broker, "-P", "solo", app="harmless",
            DOES=does, OWN_ENDPOINT=own.endpoint,
        )  # fmt: skip
        assert_each_run_once(collector, producer)
        assert_each_run_once(own, producer)
    said = [line for line in worker.own_lines if "provider" in line]
    assert len(said) == 1, said


def test_links_are_what_the_application_asks_for(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    _, producer = run_tasks(launcher, broker, "-c1", app="harmless", DOES="links")
    found = wait_for(collector, "run/shop.noop", 5)
    assert {span.parent_id for span in found} == {""}
    assert {span.links[0] for span in found} == set(producer.parents.values())


def test_a_meter_of_the_applications_is_used(launcher: Launcher, broker: str) -> None:
    worker, _ = run_tasks(launcher, broker, "-P", "solo", app="harmless", DOES="meter")
    assert "flower.task.runtime.seconds" in worker.output


# What a message carries.


def sent_headers(broker: str) -> list[dict[str, object]]:
    client = redis.Redis.from_url(broker)
    return [json.loads(each)["headers"] for each in client.lrange("celery", 0, -1)]


BY_HAND = """
from opentelemetry import trace
from shop import noop
noop.apply_async(headers={"baggage": "tenant_id=7"})
noop.apply_async(headers={"baggage": "tenant_id=7", "traceparent": "00-%032x-%016x-01" % (1, 2)})
with trace.get_tracer("own").start_as_current_span("own"):
    noop.apply_async(headers={"baggage": "tenant_id=7", "tracestate": "old=1"})
"""


def test_headers_set_by_hand_stay(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Where a propagator has nothing to write, what the application has set is sent."""
    assert run_program(launcher, BY_HAND).wait() == 0
    headers = sent_headers(broker)
    assert {each["baggage"] for each in headers} == {"tenant_id=7"}
    traces = [str(each["traceparent"]).split("-")[1] for each in headers]
    assert f"{1:032x}" in traces
    assert not any("tracestate" in each for each in headers), "of another trace"


@pytest.mark.parametrize("pool", POOLS)
def test_a_message_that_calls_itself_eager_is_in_its_trace(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """What Celery embeds in the body wins over what the worker knows."""
    worker = launcher.worker("-P", pool, "-c1")
    producer = Producer(broker)
    producer.parents[f"{1:032x}"] = f"{1:016x}"
    headers = {"lang": "py", "task": "shop.noop", "id": "eager"}
    headers["traceparent"] = f"00-{1:032x}-{1:016x}-01"
    with producer.app.connection_for_write() as connection:
        connection.Producer(serializer="json").publish(
            [[], {}, {"is_eager": True}], routing_key="celery", headers=headers
        )
    worker.wait_for_output("] succeeded in")
    worker.stop()
    assert_each_run_once(collector, producer)


def test_a_message_can_ask_for_a_trace_of_its_own(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    producer.send("shop.noop", headers={"otel_celery_trace": "new"})
    producer.send("shop.noop", headers={"otel_celery_trace": "as ever"})
    producer.wait_for_results()
    worker.stop()
    own, below = sorted(
        wait_for(collector, "run/shop.noop", 2), key=lambda span: span.parent_id
    )
    assert own.parent_id == ""
    assert own.links == (f"{1:016x}",)
    assert (below.trace_id, below.links) == (f"{2:032x}", ())


ODD = """
from otel_celery_launcher import setup
import sys
if "plain" not in sys.argv:
    setup()
from shop import app, noop
class Odd:
    def __bool__(self): raise ValueError("no truth")
    def __str__(self): raise ValueError("no text")
    def __reduce__(self): raise ValueError("no copy")
def outcome(publish):
    try:
        publish()
        return "published"
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
for headers in ({"baggage": "a=\\ud800"}, {"traceparent": 5}, {5: 5}, {"periodic_task_name": Odd()}):
    print(outcome(lambda: noop.apply_async(headers=headers)))
message = app.amqp.as_task_v2("some id", "shop.noop", (), {})
with app.producer_pool.acquire() as producer:
    print(outcome(lambda: app.amqp.send_task_message(producer, "shop.noop", message, None, "celery")))
    print(outcome(lambda: app.amqp.send_task_message(producer, "shop.noop", message._replace(headers={}), queue="celery")))
print(outcome(lambda: noop.apply_async(headers=5)))
print(outcome(lambda: noop.apply_async(queue="missing")))
print(outcome(lambda: noop.apply_async(compression="none such")))
"""


def test_odd_publishes_end_as_they_end_under_celery(launcher: Launcher) -> None:
    (launcher.folder / "program.py").write_text(ODD)
    plain, ours = (
        launcher.run("program.py", *words, program=Path(sys.executable)).stdout
        for words in (["plain"], [])
    )
    assert "published" in plain
    assert ours == plain


def test_a_mapped_task_is_named_at_its_publish_and_its_run(
    launcher: Launcher, collector: Receiver
) -> None:
    worker = launcher.worker("-c1", app="harmless")
    code = (
        "from harmless import double; print(double.map([1, 2]).delay().get(timeout=20))"
    )
    program = run_program(launcher, code)
    assert program.wait() == 0
    worker.stop()
    found = [
        *wait_for(collector, "apply_async/celery.map"),
        *wait_for(collector, "run/celery.map"),
    ]
    assert {each.attributes["celery.mapped_task"] for each in found} == {
        "harmless.double"
    }


def test_a_publish_of_beat_names_its_entry(
    launcher: Launcher, collector: Receiver
) -> None:
    launcher.start("-A", "shop", "beat", "--max-interval", "1")
    found = wait_for(collector, "apply_async/shop.noop")
    assert found[0].attributes["celery.schedule.entry"] == "tick"


def test_an_embedded_beat_names_its_entry(
    launcher: Launcher, collector: Receiver
) -> None:
    launcher.worker("-c1", "-B")
    found = wait_for(collector, "apply_async/shop.noop")
    assert found[0].attributes["celery.schedule.entry"] == "tick"


# Ends, batches, delays.


@pytest.mark.parametrize("how", ["killed", "hard limit"])
@pytest.mark.parametrize("errback", ["sorry", "sorry_at_once"])
def test_the_errback_of_a_killed_task_is_in_its_trace(
    launcher: Launcher, collector: Receiver, broker: str, how: str, errback: str
) -> None:
    """Celery publishes or calls it in the main process, where no span is current."""
    worker = launcher.worker("-c1", app="harmless")
    producer = Producer(broker)
    signature = producer.app.signature(f"harmless.{errback}", queue="celery")
    limit = {"time_limit": 1} if how == "hard limit" else {}
    producer.send("harmless.hangs", link_error=signature, **limit)
    pid = hanging_process(redis.Redis.from_url(broker))
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    name = "harmless.sorry" if errback == "sorry" else "shop.noop"
    (lost,) = wait_for(collector, "run/harmless.hangs")
    # Celery itself runs the errback of a hard limit twice.
    found = wait_for(collector, f"run/{name}", 2 if how == "hard limit" else 1)
    publishes = {span.span_id: span for span in collector.spans}
    for run in found:
        publish = publishes[run.parent_id]
        assert (publish.trace_id, publish.parent_id) == (lost.trace_id, lost.span_id)
        assert run.trace_id == lost.trace_id
    worker.stop()


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_of_a_batch_links_to_each_publish(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    # It holds Celery back, so it is not in the environment of the tests.
    path = os.pathsep.join([launcher.environ["PYTHONPATH"], f"{sys.prefix}/apart"])
    worker = launcher.worker(
        "-P", pool, "-c1", app="harmless", DOES="batches", PYTHONPATH=path
    )
    producer = Producer(broker)
    producer.send_many("harmless.batch", 3)
    producer.wait_for_results()
    worker.stop()
    (run,) = wait_for(collector, "run/harmless.batch")
    assert sorted(run.links) == sorted(producer.parents.values())
    assert run.attributes["messaging.batch.message_count"] == 3
    assert run.parent_id == ""


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_delivery_that_is_skipped_leaves_a_span(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    rabbitmq_server: str,
    pool: str,
) -> None:
    """The task had succeeded; its worker died before it said so to the broker."""
    url = f"{rabbitmq_server}//"
    producer = Producer(url)
    producer.app.conf.result_backend = broker
    options = ["-c1", "-P", "prefork"]
    environ = {"DOES": "deduplicates", "SHOP_BROKER": url, "SHOP_BACKEND": broker}
    first = launcher.worker(*options, app="harmless", KILL="1", **environ)
    producer.send("shop.noop", queue="deduplicates")
    first.wait()
    second = launcher.worker("-c1", "-P", pool, app="harmless", **environ)
    (span,) = wait_for(collector, "deduplicated/shop.noop")
    assert (span.trace_id, span.parent_id) in producer.parents.items()
    assert len(named(collector.spans, "run/shop.noop")) == 1
    second.stop()


@pytest.mark.skipif(
    tuple(map(int, celery.__version__.split(".")[:2])) < (5, 5),
    reason="native delayed delivery came with Celery 5.5",
)
def test_a_delay_is_no_part_of_a_destination(
    launcher: Launcher, collector: Receiver, broker: str, rabbitmq_server: str
) -> None:
    """With quorum queues the routing key of a delayed message holds its delay."""
    environ = {
        "DOES": "delays",
        "SHOP_BROKER": f"{rabbitmq_server}//",
        "SHOP_BACKEND": broker,
        "OTEL_SEMCONV_STABILITY_OPT_IN": "messaging/dup",
    }
    launcher.environ.update(environ)
    worker = launcher.worker("-c1", app="harmless")
    code = (
        "from harmless import noop\n"
        "for s in (None, 1, 2): noop.apply_async(countdown=s).get(timeout=30)"
    )
    assert run_program(launcher, code).wait() == 0
    worker.stop()
    collector.wait_for(lambda spans: len(spans) >= 6, 10)
    found = [span for span in collector.spans if span.kind in ("PRODUCER", "CONSUMER")]
    destinations = {span.attributes["messaging.destination.name"] for span in found}
    assert destinations == {"harmless:harmless"}
    assert {span.name for span in found} == {
        "publish harmless:harmless",
        "process harmless:harmless",
    }


# The worker's main process, and its log.


def test_a_span_of_the_applications_own_step_has_its_clients_below(
    launcher: Launcher, collector: Receiver
) -> None:
    """Celery's polling of the broker begins no traces; the application is not told off."""
    worker = launcher.worker("-c1", app="harmless", DOES="steps")
    worker.stop()
    assert "outside: False" in worker.output
    assert "inside: True" in worker.output
    assert len(wait_for(collector, "own step")) == 1


def test_an_own_record_factory_leaves_the_ids_in_the_log(
    launcher: Launcher, broker: str
) -> None:
    worker, _ = run_tasks(
        launcher, broker, "-c1", app="harmless", task="harmless.logs", count=1,
        DOES="factory", OTEL_PYTHON_LOG_CORRELATION="true",
    )  # fmt: skip
    line = next(
        each for each in worker.output.splitlines() if "a line of the task" in each
    )
    assert f"trace_id={1:032x} " in line, line
