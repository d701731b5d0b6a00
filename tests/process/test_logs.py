"""Trace ids in logs: on every record, in Celery's lines where asked for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import CELERY, Producer, run_some, runs

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

SUCCEEDED = re.compile(
    r"\[trace_id=([0-9a-f]{32}) span_id=([0-9a-f]{16})\] Task shop.noop.* succeeded"
)


@pytest.mark.parametrize("hijack", ["1", "0"])
def test_ids_are_in_the_lines_of_celery_where_asked_for(
    launcher: Launcher, collector: Receiver, broker: str, hijack: str
) -> None:
    worker = launcher.worker(OTEL_PYTHON_LOG_CORRELATION="true", SHOP_HIJACK=hijack)
    producer = Producer(broker)
    run_some(producer, 5)
    worker.stop()
    assert worker.popen.returncode == 0
    found = set(SUCCEEDED.findall(worker.output))
    assert found == {(span.trace_id, span.span_id) for span in runs(collector.spans)}
    assert "[trace_id=0 span_id=0]" in worker.output  # lines outside a task
    assert "Traceback" not in worker.output


def test_without_asking_the_lines_are_celerys(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker()
    run_some(Producer(broker), 1)
    worker.stop()
    assert "trace_id" not in worker.output


def test_an_applications_own_json_lines_have_the_ids(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`setup_logging` of the application's own: the attributes are there to be used."""
    worker = launcher.worker("-c1", app="own_logs", OTEL_PYTHON_LOG_CORRELATION="true")
    producer = Producer(broker)
    run_some(producer, 3)
    worker.stop()
    lines = [json.loads(x) for x in worker.output.splitlines() if x.startswith("{")]
    done = [line for line in lines if "succeeded" in line["message"]]
    assert {(line["trace"], line["span"]) for line in done} == {
        (span.trace_id, span.span_id) for span in runs(collector.spans)
    }
    assert {line["service"] for line in lines} == {"shop-worker"}
    assert {line["trace"] for line in lines if "ready" in line["message"]} == {"0"}


def test_debug_shows_each_inject_and_extract(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1", OTEL_LOG_LEVEL="debug")
    producer = Producer(broker)
    run_some(producer, 1, "shop.publish_noop")
    collector.wait_for(lambda spans: len(runs(spans)) >= 2, 10)
    worker.stop()
    (publish,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    header = f"traceparent=00-{publish.trace_id}-{publish.span_id}-01"
    injected = f"[celery] Injecting trace context into headers {header}"
    extracted = f"[celery] Extracting trace context from headers {header}"
    assert worker.output.count(injected) == 1
    assert worker.output.count(extracted) == 1
    called = launcher.run("-A", "shop", "call", "shop.noop", OTEL_LOG_LEVEL="debug")
    assert "[celery] Injecting trace context" in called.stderr
    assert len(called.stdout.split()) == 1


def log_of(launcher: Launcher, broker: str, **options: Path) -> list[str]:
    """Return the log of a worker that runs a task, without what differs each time."""
    worker = launcher.worker(SHOP_HIJACK="0", **options)
    run_some(Producer(broker), 1)
    worker.stop()
    lines = [line for line in worker.output.splitlines() if line.startswith("[20")]
    return [re.sub(r"[0-9a-f-]{36}|[0-9.]+", "N", line) for line in lines]


def test_a_root_logger_that_celery_leaves_alone_has_celerys_lines(
    launcher: Launcher, broker: str
) -> None:
    """Beside OpenTelemetry's logging instrumentation, which would put a handler there."""
    plain = log_of(launcher, broker, program=CELERY)
    ours = log_of(launcher, broker)
    assert len(plain) > 3
    assert sorted(ours) == sorted(plain)


WARNS = "import logging; logging.getLogger('shop').warning('low'); logging.error('out')"


@pytest.mark.parametrize("correlation", ["false", "true"])
def test_a_program_that_configures_no_log_writes_the_same(
    launcher: Launcher, correlation: str
) -> None:
    """Python's last resort, and the `basicConfig` of `logging.error`."""
    python = Path(sys.executable)
    plain = launcher.run("-c", WARNS, program=python)
    ours = launcher.run(
        "exec", "--", sys.executable, "-c", WARNS,
        OTEL_PYTHON_LOG_CORRELATION=correlation,
    )  # fmt: skip
    start, *lines = ours.stderr.splitlines(keepends=True)
    assert start.endswith("instrumented: celery\n"), "logging is left off"
    assert "".join(lines) == plain.stderr
    assert plain.stderr == "low\nERROR:root:out\n"
