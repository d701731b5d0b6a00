"""Quiet traces: whatever polls makes none, and what two record counts once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.process.test_web import BIN, OTEL_CELERY, often
from tests.support.harness import Producer, runs, wait_until
from tests.support.otlp_http import QuietHandler, serve_http

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher

__all__ = ["often"]


def roots(spans: list[ReceivedSpan]) -> set[tuple[str, str]]:
    """Return kind and name of what traces begin with."""
    return {(span.kind, span.name) for span in spans if not span.parent_id}


def run(
    launcher: Launcher, what: str, *arguments: str, role: str = "scheduler",
    **environ: str,
) -> str:  # fmt: skip
    """Run a part of the polling program under exec; return what it says."""
    done = launcher.run(
        "exec", "--role", role, "--", str(BIN / "python"), "-m", "polling", what,
        *arguments, program=OTEL_CELERY, **environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("form", ["beat", "embedded"])
def test_a_beat_with_its_schedule_in_a_database_makes_publishes_alone(
    launcher: Launcher, collector: Receiver, broker: str, form: str
) -> None:
    scheduler = ("-S", "polling.DatabaseScheduler")
    if form == "beat":
        beat = launcher.start("-A", "polling", "beat", *scheduler, program=OTEL_CELERY)
    else:
        beat = launcher.worker("-B", *scheduler, app="polling", program=OTEL_CELERY)
    enough = 3
    collector.wait_for(
        lambda spans: sum(span.kind == "PRODUCER" for span in spans) >= enough, 20
    )
    beat.stop()
    assert roots(collector.spans) == {("PRODUCER", "apply_async/polling.ask")}


@pytest.mark.parametrize("role", ["scheduler", "producer", "web"])
def test_polling_for_a_result_makes_no_trace(
    launcher: Launcher, collector: Receiver, role: str
) -> None:
    """In no role: outside a run or a request nobody has asked for it."""
    run(launcher, "poll_result", role=role)
    assert collector.spans == []


@pytest.mark.parametrize("form", ["poll_everything", "poll_in_a_thread"])
@pytest.mark.parametrize("setting", ["auto", "always", "never"])
def test_calls_of_clients_begin_no_trace_but_where_they_may(
    launcher: Launcher, collector: Receiver, setting: str, form: str
) -> None:
    run(launcher, form, OTEL_CELERY_CLIENT_ROOTS=setting)
    assert bool(collector.spans) == (setting == "always")


def test_the_web_role_is_as_opentelemetry_has_it(
    launcher: Launcher, collector: Receiver
) -> None:
    run(launcher, "poll_everything", role="web")
    assert {kind for kind, _ in roots(collector.spans)} == {"CLIENT"}


def test_who_is_called_by_a_quiet_program_begins_its_own_trace(
    launcher: Launcher, collector: Receiver
) -> None:
    """A context that nobody records would turn the other service's tracing off."""
    headers: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            headers.extend(self.headers.keys())
            super().do_GET()

    with serve_http(Handler) as url:
        run(launcher, "call_another", url)
    assert headers
    assert "traceparent" not in {name.lower() for name in headers}


@pytest.mark.parametrize("plumbing", ["true", "false"])
def test_celerys_own_calls_of_broker_and_backend(
    launcher: Launcher, collector: Receiver, broker: str, plumbing: str
) -> None:
    """The task's own call of the same Redis is a span in any case."""
    worker = launcher.worker(
        app="polling", program=OTEL_CELERY, OTEL_CELERY_PLUMBING=plumbing
    )
    producer = Producer(broker)
    producer.send("polling.ask")
    producer.wait_for_results()
    run(launcher, "publish_a_chord", OTEL_CELERY_PLUMBING=plumbing)
    collector.wait_for(lambda spans: len(runs(spans)) >= 5, 10)
    worker.stop()
    clients = [span for span in collector.spans if span.kind == "CLIENT"]
    own = [span for span in clients if span.name == "GET"]
    assert len(runs(collector.spans)) == 5
    assert own
    assert (len(clients) == 1) == (plumbing == "false"), clients
    assert {kind for kind, _ in roots(clients)} == set()


@pytest.mark.parametrize("setting", ["outer", "both"])
def test_a_statement_that_two_record_counts_once(
    launcher: Launcher, collector: Receiver, setting: str
) -> None:
    """The driver's own statement beside it is a span, too."""
    said = run(launcher, "statements", role="web", OTEL_CELERY_DB_SPANS=setting)
    statements = [span for span in collector.spans if span.name == "select"]
    assert len(statements) == (2 if setting == "outer" else 3)
    assert ("once: " in said) == (setting == "outer")
    assert bool(re.search(r"once: .*sqlite3.* below sqlalchemy", said)) == (
        setting == "outer"
    )


def test_a_process_that_begins_traces_without_end_is_bounded_and_told(
    launcher: Launcher, collector: Receiver
) -> None:
    said = run(launcher, "spans_of_its_own", role="web")
    told = re.findall(r"(\d+) traces left out so far.*'look'", said)
    assert told, said
    assert 1000 <= len(collector.spans) < 2000
    assert int(told[-1]) + len(collector.spans) == 5000
    collector.clear()
    run(
        launcher, "spans_of_its_own", role="web",
        OTEL_CELERY_ROOT_SPANS_PER_SECOND="0", OTEL_BSP_MAX_QUEUE_SIZE="10000",
    )  # fmt: skip
    assert len(collector.spans) == 5000


def test_status_counts_what_is_left_out(launcher: Launcher, broker: str) -> None:
    launcher.worker("-n", "w@x", app="polling", program=OTEL_CELERY)
    found = {}

    def answers() -> bool:
        done = launcher.run(
            "-A", "polling", "inspect", "otel_status", "--json", program=OTEL_CELERY
        )
        found.update(json.loads(done.stdout or "{}"))
        return bool(found)

    wait_until(answers, 20, "the worker answers")
    assert found["w@x"]["left_out"] == 0
