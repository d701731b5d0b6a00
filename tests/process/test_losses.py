"""What is lost is told, at the latest by the last line, and with the real reason."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.documented import undocumented
from tests.support.harness import Producer, counters_of, run_some, run_tasks, wait_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from otel_celery_launcher.ipc.counters import Counters
    from tests.support.harness import Launcher

SPANS = 201

PROGRAM = f"""
from opentelemetry import trace
tracer = trace.get_tracer("program")
for number in range({SPANS}):
    tracer.start_span("work").end()
"""


def lost_by(output: str) -> int:
    """Return how many spans the last line tells as lost."""
    told = re.findall(r"otel-celery: (\d+) spans lost: ", output)
    return int(told[-1]) if told else 0


def refuse(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown key")


@pytest.mark.parametrize("export", ["process", "inline"])
@pytest.mark.parametrize("is_there", [True, False], ids=["refuses", "nobody"])
def test_a_worker_tells_at_its_stop(
    launcher: Launcher, broker: str, export: str, is_there: bool
) -> None:
    with Receiver(answer=refuse) as receiver:
        endpoint = receiver.endpoint if is_there else f"http://127.0.0.1:{free_port()}"
        worker, _ = run_tasks(
            launcher,
            broker,
            count=20,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_CELERY_EXPORT=export,
            OTEL_CELERY_SHUTDOWN_SECONDS="2",
        )
    assert lost_by(worker.output) == 20, worker.output
    line = worker.own_lines[-1]
    if is_there:
        assert "does not accept the key" in line
    else:  # older exporters log the status alone
        assert "nothing listens there" in line or "(UNAVAILABLE)" in line


@pytest.mark.parametrize("role", ["web", "producer"])
def test_a_program_tells_at_its_end(launcher: Launcher, role: str) -> None:
    """A minute has not passed since its first line."""
    script = launcher.folder / "script.py"
    script.write_text(PROGRAM)
    done = launcher.run(
        "exec", "--role", role, "--", sys.executable, str(script),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
    )  # fmt: skip
    assert done.returncode == 0
    assert lost_by(done.stderr) == SPANS, done.stderr
    assert undocumented(done.stderr) == []


def until_refused_again(counters: Counters) -> None:
    before = counters.refused
    wait_until(lambda: counters.refused > before, 10, "it is tried again")


@pytest.mark.parametrize("export", ["process", "inline"])
def test_the_last_answer_stays_the_reason(
    launcher: Launcher, broker: str, export: str
) -> None:
    """The SDK's filter swallows an answer that is like the one before it."""
    with Receiver(answer=refuse) as receiver:
        worker = launcher.worker(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_CELERY_EXPORT=export,
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        counters, refused = counters_of(worker), []
        for _ in range(4):
            run_some(Producer(broker), 3)
            until_refused_again(counters)
            refused.append(counters.error)
        worker.stop()
    assert all("UNAUTHENTICATED" in each for each in refused), refused
    assert "no answer" not in worker.output
    assert "Check the key in OTEL_EXPORTER_OTLP_HEADERS" in worker.output


def test_all_is_delivered_is_no_line(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker, _ = run_tasks(launcher, broker)
    assert "lost" not in worker.output


def test_doctor_tells_a_worker_that_delivers_nothing(
    launcher: Launcher, broker: str
) -> None:
    """What waits is not lost yet, and the collector says why it does not take it."""
    from tests.process.test_doctor import examine, of

    with Receiver(answer=refuse) as receiver:
        worker = launcher.worker(
            "-n", "ours@x", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint
        )
        run_some(Producer(broker), 7)
        counters = counters_of(worker)
        wait_until(lambda: counters.refused, 10, "it is refused")
        status, findings = examine(launcher, "-A", "shop")
    assert status == 1
    summary, line = of(findings, "workers")
    assert summary == "WARN 0 of 1 started by otel-celery deliver"
    (table,) = [each["table"] for each in findings if each["table"]]
    assert table[1][3:] == ["0", "7", "0"]
    assert line.startswith("FAIL ours@x, service 'shop-worker', exported 0 to 'http://")
    assert "does not accept the key" in line


def test_doctor_tells_who_publishes_without_a_context(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    from celery import Celery

    from tests.process.test_doctor import examine, of

    launcher.worker("-n", "ours@x")
    run_some(Producer(broker), 6)
    plain = Celery("plain", broker=broker, backend=broker)
    results = [plain.send_task("shop.noop") for _ in range(2)]
    wait_until(lambda: all(each.ready() for each in results), 20, "they are run")
    _, findings = examine(launcher, "-A", "shop")
    (line,) = [each for each in of(findings, "workers") if "trace context" in each]
    assert line.startswith(
        "WARN ours@x: 2 of the last 8 messages had no trace context that it reads; from 'gen"
    )
