"""Log records: each line of a task is in its trace, and the local log is Celery's."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.test_metrics import kill_children
from tests.support.harness import CELERY, SPAWN, Producer, exporter_of, runs, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.logs import ReceivedLog
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher, Process

ON = {"OTEL_LOGS_EXPORTER": "otlp"}
SECRET = "hunter2-canary"

SET_UPS: dict[str, dict[str, str]] = {
    "hijack": {},
    "no hijack": {"SHOP_HIJACK": "0"},
    "dictConfig": {"SHOP_HIJACK": "0", "SHOP_LOGGING": "dictConfig"},
    "setup_logging": {"SHOP_LOGGING": "setup_logging"},
}
POOLS: dict[str, tuple[str, ...]] = {
    "prefork": ("-c2",),
    "threads": ("-P", "threads", "-c2"),
    "solo": ("-P", "solo"),
    "gevent": ("-P", "gevent", "-c2"),
    "eventlet": ("-P", "eventlet", "-c2"),
}
if SPAWN:
    POOLS["spawn"] = ("-c2", *SPAWN)


def start(launcher: Launcher, *words: str, **environ: str) -> Process:
    return launcher.worker(*words, app="talks", **{**ON, **environ})


def bodies(logs: list[ReceivedLog], begin: str) -> list[str]:
    return [str(each.body) for each in logs if str(each.body).startswith(begin)]


def assert_lines_are_in_their_traces(
    collector: Receiver, producer: Producer, count: int
) -> None:
    """Four lines of each of the tasks, once each, under its run span."""
    lines = {
        f"{kind} {number}"
        for number in range(count)
        for kind in ("task", "module", "late", "printed")
    }
    logs = collector.wait_for_logs(
        lambda logs: {str(each.body) for each in logs} >= lines, 15
    )
    found = [each for each in logs if each.body in lines]
    assert sorted(str(each.body) for each in found) == sorted(lines)
    by_id = {span.span_id: span for span in runs(collector.spans)}
    for each in found:
        assert by_id[each.span_id].trace_id == each.trace_id
        assert each.service == "shop-worker"
    loggers = {str(each.body).split()[0]: each.logger for each in found}
    assert loggers["task"] == "talks"
    assert loggers["module"] == "talks.module"
    assert loggers["printed"] == "celery.redirected"
    severities = {str(each.body).split()[0]: each.severity_text for each in found}
    assert severities["task"] == "INFO"
    assert severities["late"] == severities["printed"] == "WARN"


@pytest.mark.parametrize("mode", ["process", "inline"])
@pytest.mark.parametrize("pool", POOLS)
def test_every_line_of_a_task_is_in_its_trace_in_every_pool(
    launcher: Launcher, collector: Receiver, broker: str, pool: str, mode: str
) -> None:
    worker = start(launcher, *POOLS[pool], OTEL_CELERY_EXPORT=mode)
    producer = Producer(broker)
    for number in range(20):
        producer.send("talks.talk", number)
    producer.wait_for_results()
    worker.stop()
    assert_lines_are_in_their_traces(collector, producer, 20)


def local_lines(output: str) -> list[str]:
    """Return lines of the local log without times, ids, numbers of processes, and our own."""
    lines = [
        re.sub(
            r"\d{4}-\d\d-\d\d [\d:,]+|[0-9a-f]{8}-[0-9a-f-]{27}|in \d[\d.e-]*s"
            r"|PoolWorker-\d+|pid:\d+|0x[0-9a-f]+|127.0.0.1:\d+/\d+",
            "#",
            line,
        )
        for line in output.splitlines()
    ]
    return sorted(line for line in lines if "otel-celery" not in line)


@pytest.mark.parametrize("kind", SET_UPS)
def test_the_local_log_is_celerys_and_each_of_its_lines_arrives(
    launcher: Launcher, collector: Receiver, broker: str, kind: str
) -> None:
    def run(program: Path | None) -> str:
        producer = Producer(broker)
        options: dict[str, Any] = {} if program is None else {"program": program}
        worker = launcher.worker("-c1", app="talks", **options, **ON, **SET_UPS[kind])
        for number in range(20):
            producer.send("talks.talk", number)
        producer.wait_for_results()
        worker.stop()
        return worker.output

    plain, ours = run(CELERY), run(None)
    assert local_lines(ours) == local_lines(plain)
    logs = collector.wait_for_logs(lambda logs: len(bodies(logs, "Task")) >= 40, 10)
    for begin in ("task ", "module ", "late ", "printed "):
        stands = len(re.findall(rf"(?<![\w.]){begin}\d+$", ours, re.MULTILINE))
        assert len(bodies(logs, begin)) == (20 if stands else 0) or not stands
        assert stands in (0, 20)
    # Celery's own lines, in the main process and in a pool child.
    assert len([b for b in bodies(logs, "Task talks.talk") if "received" in b]) == 20
    assert len([b for b in bodies(logs, "Task talks.talk") if "succeeded" in b]) == 20


def test_beats_lines_arrive(launcher: Launcher, collector: Receiver) -> None:
    words = ("-A", "shop", "beat", "-l", "INFO", "--max-interval", "1")
    beat = launcher.start(*words, **ON)
    logs = collector.wait_for_logs(lambda logs: bool(bodies(logs, "Scheduler:")), 20)
    beat.stop()
    assert bodies(logs, "Scheduler: Sending due task")
    assert {each.service for each in logs} == {"shop-beat"}


def test_last_words_before_a_sigkill_arrive(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(launcher, "-c2")
    producer = Producer(broker)
    for number in range(10):
        producer.send("talks.dies", number)
    expected = {f"last words {number}" for number in range(10)}
    logs = collector.wait_for_logs(
        lambda logs: set(bodies(logs, "last words")) >= expected, 40
    )
    # Each arrives at least once.
    assert set(bodies(logs, "last words")) == expected
    worker.popen.kill()


def test_a_flood_arrives_in_order_and_costs_no_span(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(launcher, "-c2", "--prefetch-multiplier", "1", "-O", "fair")
    producer = Producer(broker)
    producer.send("talks.floods", 20_000)
    for _ in range(200):
        producer.send("talks.returns", 1)
    producer.wait_for_results()
    worker.stop()
    logs = collector.wait_for_logs(
        lambda logs: len(bodies(logs, "line ")) >= 20_000, 30
    )
    lines = [int(body.split()[1]) for body in bodies(logs, "line ")]
    assert lines == list(range(20_000))
    assert len(runs(collector.spans)) == 201
    assert " lost" not in worker.output


def test_an_outage_costs_the_oldest_lines_and_no_span(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """More lines than their queue has room for: what is lost is counted and said."""
    collector.stop()
    worker = start(launcher, "-c2")
    producer = Producer(broker)
    for _ in range(5):
        producer.send("talks.floods", 2_000, 4_000 * "x")
    for _ in range(200):
        producer.send("talks.returns", 1)
    producer.wait_for_results()
    collector.start()
    collector.wait_for(lambda spans: len(runs(spans)) == 205, 60)
    words = ("-A", "talks", "inspect", "otel_status", "--json", "-t", "5")

    def status() -> dict[str, int]:
        (answer,) = json.loads(launcher.run(*words).stdout).values()
        return dict(answer["logs"])

    wait_until(lambda: status()["queued"] == 0, 60, "all lines are sent")
    dropped = status()["dropped"]
    worker.stop()
    assert len(runs(collector.spans)) == 205
    lines = bodies(collector.logs, "line ")
    assert dropped > 0
    # The lines of Celery's own are in the count, too: four of each task at most.
    assert 10_000 <= len(lines) + dropped <= 10_000 + 205 * 4
    assert f"{dropped} log records lost" in worker.output


def test_kills_of_the_exporter_process_lose_no_line(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(
        launcher, "-c2", "--max-tasks-per-child", "20",
        OTEL_CELERY_SHUTDOWN_SECONDS="30",  # of a busy machine
    )  # fmt: skip
    producer = Producer(broker)
    for batch in range(4):
        for number in range(25):
            producer.send("talks.talk", batch * 25 + number)
        producer.wait_for_results()
        exporter_of(worker).kill()
    worker.stop()
    lines = set(bodies(collector.logs, "module "))
    assert lines == {f"module {number}" for number in range(100)}


@pytest.mark.parametrize("mode", ["process", "inline"])
def test_hostile_records_harm_nothing(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    worker = start(launcher, "-c1", OTEL_CELERY_EXPORT=mode)
    producer = Producer(broker)
    producer.send("talks.hostile").get(timeout=60)
    worker.stop()
    logs = collector.wait_for_logs(lambda logs: bool(bodies(logs, "the end")), 10)
    found = [each for each in logs if each.logger == "talks.module"]
    assert len(found) == 7
    (event,) = (each for each in found if each.body == "like structlog")
    assert event.attributes["user"] == 7
    (mute,) = (each for each in found if each.body == "mute")
    assert mute.attributes["exception.type"].endswith("Mute")
    assert runs(collector.spans)


@pytest.mark.parametrize("sink", ["", "own", "propagates"])
def test_events_leave_and_loguru_is_said(
    launcher: Launcher, collector: Receiver, broker: str, sink: str
) -> None:
    worker = start(launcher, "-c1", SHOP_LOGURU=sink)
    Producer(broker).send("talks.emits", 7).get(timeout=60)
    worker.stop()
    (event,) = (each for each in collector.logs if each.logger == "talks.events")
    assert event.body == {"number": 7}
    (run,) = runs(collector.spans)
    assert (event.trace_id, event.span_id) == (run.trace_id, run.span_id)
    said = worker.output.count("loguru is imported, and its lines do not leave")
    assert said == (1 if sink == "own" else 0)
    lines = [each for each in collector.logs if each.body == "by loguru"]
    assert [each.span_id for each in lines] == (
        [run.span_id] if sink == "propagates" else []
    )


def test_soft_time_limits_are_not_swallowed(launcher: Launcher, broker: str) -> None:
    start(launcher, "-c1")
    assert Producer(broker).send("talks.soft_limits", 300).get(timeout=60) == 300


@pytest.mark.parametrize("shows", ["true", "false"])
def test_no_argument_no_result_and_on_request_no_message_leaves(
    launcher: Launcher, collector: Receiver, broker: str, shows: str
) -> None:
    worker = start(launcher, "-c1", "-l", "DEBUG", OTEL_CELERY_EXCEPTION_MESSAGES=shows)
    producer = Producer(broker)
    producer.send("talks.returns", SECRET)
    producer.app.send_task("talks.returns", (SECRET,), {"keyword": SECRET})
    producer.app.send_task("talks.is_not_there", (SECRET,), {"keyword": SECRET})
    if shows == "false":
        producer.send("talks.fails", ValueError(SECRET).args[0])
    producer.wait_for_results()
    producer.send("talks.talk", 1).get(timeout=60)
    worker.stop()
    logs = collector.wait_for_logs(lambda logs: bool(bodies(logs, "task 1")), 10)
    assert SECRET in worker.output  # plain Celery writes it
    of_task = [each for each in logs if "talks.returns" in str(each)]
    assert of_task
    told = [each for each in logs if SECRET in str(each)]
    # What the application writes itself, as text, leaves.
    assert {each.logger for each in told} <= {"talks.module"}
    assert SECRET not in str(collector.spans)


def test_a_collector_without_logs_is_said_once_and_costs_no_span(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    collector.stop()
    collector.takes_logs = False
    collector.start()
    worker = start(launcher, "-c1")
    producer = Producer(broker)
    for number in range(40):
        producer.send("talks.talk", number)
    producer.wait_for_results()
    worker.wait_for_output("the collector takes no log records")
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 15
    assert worker.output.count("takes no log records") == 1
    assert worker.output.count(" log records lost") <= 1  # at the end
    assert "spans do not reach" not in worker.output
    assert len(runs(collector.spans)) == 40


def test_nothing_leaves_unless_it_is_asked_for(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", app="talks")
    producer = Producer(broker)
    producer.send("talks.talk", 1).get(timeout=60)
    kill_children(worker, 1)
    worker.stop()
    assert collector.spans
    assert not collector.logs
