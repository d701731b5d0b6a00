"""Applications with OpenTelemetry of their own: docs/design.md, a test a row."""

from __future__ import annotations

import gzip
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import (
    CELERY,
    Producer,
    assert_each_run_once,
    run_tasks,
    runs,
    wait_until,
)
from tests.support.otlp_http import QuietHandler, serve_http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.harness import Launcher, Process


def run_own(
    launcher: Launcher, broker: str, own: str, *options: str, **environ: str
) -> tuple[Process, Producer]:
    """Run tasks of an application that has this OpenTelemetry of its own."""
    return run_tasks(
        launcher, broker, *options, app="own_otel", count=20, OWN=own, **environ
    )


@pytest.mark.parametrize(
    "own",
    [
        "instruments",
        "provider to the same endpoint",
        "provider in each child",
        "exporter added to the global provider",
    ],
)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_each_span_comes_once(
    launcher: Launcher, collector: Receiver, broker: str, own: str, pool: str
) -> None:
    """Its own instrument() and its own provider to our endpoint change nothing."""
    worker, producer = run_own(launcher, broker, own, "-P", pool)
    assert_each_run_once(collector, producer)
    assert "Attempting to instrument" not in worker.output
    assert "Overriding of current TracerProvider" not in worker.output
    said = [line for line in worker.output.splitlines() if "is left out" in line]
    per_process = 0 if own == "instruments" else 1
    processes = 2 if own == "provider in each child" and pool == "prefork" else 1
    assert len(said) == per_process * processes
    services = {span.service for span in collector.spans}
    assert services == {"shop-worker"}, "the environment's name wins over the code's"


def test_provider_to_another_destination_runs_beside_ours(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Each span at both collectors, once."""
    with Receiver() as other:
        worker, producer = run_own(
            launcher,
            broker,
            "provider to another destination",
            OWN_ENDPOINT=other.endpoint,
        )
        assert_each_run_once(collector, producer)
        assert_each_run_once(other, producer)
    assert "runs beside otel-celery's" in worker.output


def test_without_an_exporter_of_ours_the_applications_is_kept(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """OTEL_TRACES_EXPORTER=none: nothing of ours is a duplicate of theirs."""
    _, producer = run_own(
        launcher, broker, "provider in each child", OTEL_TRACES_EXPORTER="none"
    )
    assert_each_run_once(collector, producer)


@pytest.mark.parametrize("mode", ["process", "inline"])
def test_processors_of_the_application_run_before_the_export(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """Redacting, renaming and filtering processors have seen every span that is sent."""
    _, producer = run_own(
        launcher, broker, "processors", task="shop.inner", OTEL_CELERY_EXPORT=mode
    )
    assert_each_run_once(collector, producer)
    assert {span.attributes["secret"] for span in collector.spans} == {"gone"}
    assert {span.name for span in collector.spans} == {"renamed run/shop.inner"}


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_own_consumer_span_is_a_child_of_ours_and_the_next_task_is_clean(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """A context that the application never leaves does not reach the next task."""
    _, producer = run_own(launcher, broker, "consumer span", "-c1", "-P", pool)
    spans = collector.wait_for(lambda spans: len(spans) >= 40, 5)
    ours = {span.span_id: span for span in runs(spans) if span.name != "own run"}
    theirs = [span for span in spans if span.name == "own run"]
    assert len(ours) == len(theirs) == 20
    assert {span.trace_id: span.parent_id for span in ours.values()} == producer.parents
    assert {span.parent_id for span in theirs} == set(ours)


SITES = Path(__file__).parent / "sites" / "configurator"


def start_under(launcher: Launcher, program: str, **environ: str) -> Process:
    folder = Path(sys.executable).parent
    return launcher.start(
        "otel-celery", "-A", "shop", "worker", "-l", "INFO", "-c", "2",
        program=folder / program,
        PATH=f"{folder}:{launcher.environ['PATH']}",
        **environ,
    ).wait_until_ready()  # fmt: skip


def test_under_opentelemetry_instrument_each_span_comes_once(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Its provider is kept, its exporter to our endpoint is ours, nothing is lost."""
    worker = start_under(
        launcher,
        "opentelemetry-instrument",
        PYTHONPATH=f"{SITES}:{launcher.environ['PYTHONPATH']}",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    producer = Producer(broker)
    producer.send_many("shop.noop", 100)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
    assert "a tracer provider is in place and kept" in worker.output
    services = {span.service for span in collector.spans}
    assert services == {"shop"}, "its own resource is kept"
    assert {span.resource["celery.role"] for span in collector.spans} == {"worker"}


def test_under_ddtrace_its_provider_is_kept(launcher: Launcher, broker: str) -> None:
    """Spans go where ddtrace sends them; the start says so, tasks run."""
    worker = start_under(
        launcher,
        "ddtrace-run",
        DD_TRACE_OTEL_ENABLED="true",
        DD_TRACE_AGENT_URL="http://127.0.0.1:9",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
    )
    producer = Producer(broker)
    producer.send_many("shop.noop", 10)
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    assert "a tracer provider of ddtrace is in place: spans go through it" in (
        worker.output
    )


def test_carriers_of_hand_written_code_are_read_by_both(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`headers={"otel_context": …}`: two tasks in one child, one fails, both are clean."""
    worker = launcher.worker("-c1", app="own_otel", OWN="consumer span")
    producer = Producer(broker)
    for number, task in enumerate(("shop.fail", "shop.noop"), 1):
        carrier = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
        result = producer.app.send_task(task, headers={"otel_context": carrier})
        result.get(timeout=20, propagate=False)
    worker.stop()
    spans = collector.spans
    for number, task in enumerate(("shop.fail", "shop.noop"), 1):
        found = [span for span in spans if int(span.trace_id, 16) == number]
        assert sorted(span.name for span in found) == ["own run", f"run/{task}"]
        assert {int(span.parent_id, 16) for span in found} == {number}
    assert len(spans) == 4


def test_a_carrier_in_the_payload_is_read_by_both(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Its own `extract` of `_otel` makes its span our sibling, in the same trace."""
    worker = launcher.worker("-c1", app="own_otel", OWN="payload")
    payload = {"_otel": {"traceparent": f"00-{5:032x}-{7:016x}-01"}}
    Producer(broker).app.send_task("own.reads", (payload,)).get(timeout=20)
    worker.stop()
    found = {span.name: (span.trace_id, span.parent_id) for span in collector.spans}
    expected = (f"{5:032x}", f"{7:016x}")
    assert found == {"run/own.reads": expected, "own run": expected}


def test_an_import_of_the_jaeger_exporter_is_one_line_of_advice(
    launcher: Launcher,
) -> None:
    """It fails as under plain Celery; the line says what to do."""
    done = launcher.run("-A", "own_otel", "worker", OWN="jaeger")
    plain = launcher.run("-A", "own_otel", "worker", OWN="jaeger", program=CELERY)
    assert done.returncode == plain.returncode != 0
    advice = [line for line in done.stderr.splitlines() if "Jaeger takes" in line]
    assert len(advice) == 1
    assert "No module named 'opentelemetry.exporter.jaeger'" in done.stderr


@contextmanager
def sentry_server() -> Iterator[tuple[str, list[bytes]]]:
    """What a DSN of sentry-sdk points to; yields the DSN and what was sent."""
    sent: list[bytes] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_packed = self.headers.get("Content-Encoding") == "gzip"
            sent.append(gzip.decompress(body) if is_packed else body)
            self.do_GET()

    with serve_http(Handler) as url:
        yield url.replace("//", "//key@") + "/1", sent


def test_beside_sentry_each_span_comes_once_and_sentry_gets_its_own(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """sentry-sdk with its Celery and OpenTelemetry parts on loses us nothing."""
    with sentry_server() as (dsn, sent):
        _, producer = run_own(launcher, broker, "sentry", SENTRY=dsn)
        assert_each_run_once(collector, producer)
        wait_until(
            lambda: any(b'"type":"transaction"' in each for each in sent), 10, "sent"
        )
