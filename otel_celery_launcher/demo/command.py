# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery demo``: worker, web process, broker and receiver, all on loopback.

The broker is kombu's filesystem transport in a temporary folder, the receiver runs in
this process. The status is 0 only if every expected span came, once, under the right
parent, and the task saw the baggage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher.errors import EXIT_FAILED, EXIT_OK
from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.tail.display import Summary, Totals
from otel_celery_launcher.tail.metric_table import DURATION, MetricTable
from otel_celery_launcher.tail.output import (
    prepare_output,
    until_reader_leaves,
    write_line,
)
from otel_celery_launcher.tail.screen import PLAIN_COLUMNS, Screen
from otel_celery_launcher.tail.traces import Trace
from otel_celery_launcher.tail.waterfall import WaterfallRow, arrange
from otel_celery_launcher.tail.web.server import serve_page, web_option
from otel_celery_launcher.tail.web.store import Store
from otel_celery_launcher.terminal import LINES, escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_celery_launcher.receiver.logs import ReceivedLog
    from otel_celery_launcher.receiver.metrics import ReceivedPoint

# What the checkout must leave: one line for each span, parents above by indentation.
EXPECTED = """\
POST /checkout
 apply_async/reserve_stock
  run/reserve_stock
   look up warehouse
   apply_async/charge_card
    run/charge_card
     apply_async/charge_card
      run/charge_card
       apply_async/send_email
        run/send_email
       apply_async/update_search
        run/update_search
"""
EXPECTED_NOTES = {"run/update_search": "ERROR"}
EXPECTED_BAGGAGE = {"tenant_id": "acme", "request_source": "web"}

NEXT = """
Next, with your own application:
  otel-celery tail               a collector for development, in one terminal
  export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317
  otel-celery -A <app> worker    and: otel-celery exec --role web -- <command>
  otel-celery -A <app> doctor    what is missing, and what to type next"""

# Worker features that only cost time where there is one worker.
QUICK = ("--without-gossip", "--without-mingle", "--without-heartbeat")

SPANS_SECONDS = 30.0  # a slow machine starts a worker in 5
LOGS_SECONDS = 3.0  # after the spans: they have a queue of their own
STOP_SECONDS = 15.0


def run_demo(store: Store | None = None) -> int:
    """Run the workflow, print its trace, check it; return the exit status.

    Args:
        store: Where it is kept for the live page; None without one.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        write_line(
            "A web request leaves work for a Celery worker that was started by\n"
            "`otel-celery -A shop worker`; the application has no tracing set-up.\n"
        )
        environ = _environ(Path(folder), receiver.endpoint)
        log = _run_workflow(Path(folder), environ, receiver)
    rows = arrange(receiver.spans, records=_in_traces(receiver.logs))
    if store is not None:
        _keep(store, receiver, rows)
    table = MetricTable()
    table.add(receiver.points)
    wrong = check(rows) + check_metrics(rows, receiver.points) + check_logs(rows)
    if wrong:
        write_line("\nThe trace is not what it should be:\n  " + "\n  ".join(wrong))
        write_line(f"\nThe worker's log:\n{escape_controls(log, keep=LINES)}")
        return EXIT_FAILED
    seen = " ".join(f"{key}={value}" for key, value in EXPECTED_BAGGAGE.items())
    write_line(
        f"{len(rows)} spans, {sum(len(row.lines) for row in rows)} log records, 1 trace,"
        f" {time.monotonic() - start:.1f} s.\n"
        f"send_email saw the request's baggage: {seen}.\n\n"
        "The same tasks as metrics, which `otel-celery tail --metrics` shows:\n"
    )
    known = {row.span.trace_id for row in rows}
    for line in table.lines(PLAIN_COLUMNS, known.__contains__):
        write_line(line)
    write_line(NEXT)
    return EXIT_OK


@click.command(help="Trace a small workflow here and now; needs nothing installed.")
@web_option("Show it as a page, until Ctrl-C.")
@click.pass_context
def demo(context: click.Context, web: int | None) -> None:
    """Run the demo as a command of its own."""
    prepare_output()
    with until_reader_leaves():
        if web is None:
            status = run_demo()
        else:
            store = Store()
            with serve_page(store, web):
                status = run_demo(store)
                _wait_for_the_end()
    context.exit(status)


def _keep(store: Store, receiver: Receiver, rows: list[WaterfallRow]) -> None:
    """Give the page what has come."""
    for trace_id in dict.fromkeys(row.span.trace_id for row in rows):
        its = [row for row in rows if row.span.trace_id == trace_id]
        records = [each for each in receiver.logs if each.trace_id == trace_id]
        trace = Trace(trace_id, [row.span for row in its], records=records)
        store.add(trace, its, Summary.of(its))
    store.add_points(receiver.points)
    totals = Totals()
    totals.add(Summary.of(rows), None)
    store.set_totals(str(totals))


def _wait_for_the_end() -> None:
    """Wait for SIGINT or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    write_line("\nCtrl-C ends the page.")
    while not stopped.wait(0.2):
        pass


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command with click's own messages, and exit with its status."""
    demo.main(list(arguments), prog_name="otel-celery demo")


def _paths(rows: Sequence[WaterfallRow]) -> Iterator[str]:
    """Yield the names from the root to each span."""
    above: list[str] = []
    for row in rows:
        above[row.depth :] = [escape_controls(row.span.name)]
        yield " > ".join(above)


def check(rows: Sequence[WaterfallRow]) -> list[str]:
    """Return what is wrong with the trace, one line each."""
    paths = list(_paths(rows))
    expected = expected_paths()
    wrong = [f"missing: {path}" for path in _surplus(expected, paths)]
    wrong += [f"unexpected: {path}" for path in _surplus(paths, expected)]
    if len({row.span.trace_id for row in rows}) > 1:
        wrong.append("more than one trace")
    for row in rows:
        should = EXPECTED_NOTES.get(row.span.name)
        if should and row.note != should:
            wrong.append(f"{row.span.name} is not marked {should}")
        if row.span.name == "run/send_email":
            wrong += [
                f"run/send_email saw {key} {row.span.attributes.get(name)!r}"
                for key, value in EXPECTED_BAGGAGE.items()
                if row.span.attributes.get(name := f"demo.baggage.{key}") != value
            ]
    if [row.note for row in rows].count("retry") != 1:
        wrong.append("no run is marked as retried")
    return wrong


def check_metrics(
    rows: Sequence[WaterfallRow], points: Sequence[ReceivedPoint]
) -> list[str]:
    """Return a line if the metrics count other runs than there are spans."""
    last = {point.key: point for point in points if point.metric == DURATION}
    counted = sum(point.count for point in last.values())
    ran = sum(row.span.kind == "CONSUMER" for row in rows)
    return [] if counted == ran else [f"{ran} runs, and {counted} in the metrics"]


def check_logs(rows: Sequence[WaterfallRow]) -> list[str]:
    """Return a line for each run without the line that Celery logs at its end."""
    return [
        f"{row.span.name} has no log line"
        for row in rows
        if row.span.kind == "CONSUMER" and not row.lines
    ]


def _in_traces(logs: Sequence[ReceivedLog]) -> list[ReceivedLog]:
    """Return the records that are in a trace: the worker's own start is in none."""
    return [each for each in logs if each.trace_id]


def expected_paths() -> list[str]:
    """Return the path from the root to each expected span."""
    paths = []
    above: list[str] = []
    for line in EXPECTED.splitlines():
        depth = len(line) - len(line.lstrip())
        above = [*above[:depth], line.strip()]
        paths.append(" > ".join(above))
    return paths


def _surplus(these: Sequence[str], those: Sequence[str]) -> list[str]:
    rest = list(those)
    surplus = []
    for line in these:
        if line in rest:
            rest.remove(line)
        else:
            surplus.append(line)
    return surplus


def _environ(folder: Path, endpoint: str) -> dict[str, str]:
    """Return an environment in which nothing of the user's set-up shows."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "CELERY_"))
    }
    return kept | {
        "OTEL_CELERY_DEMO_FOLDER": str(folder),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_CELERY_QUEUE_METRICS": "false",  # folders are no broker to ask
        "PYTHONWARNINGS": "ignore",
    }


def _run_workflow(folder: Path, environ: dict[str, str], receiver: Receiver) -> str:
    """Run web process and worker, show the trace as soon as it is whole."""
    log = folder / "worker.log"
    script = [sys.executable, "-m", "otel_celery_launcher"]
    app = "otel_celery_launcher.demo.shop"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [*script, "-A", app, "worker", "-c", "2", "-l", "INFO", *QUICK],
            env=environ | {"OTEL_SERVICE_NAME": "shop-worker"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            subprocess.run(
                [sys.executable, "-m", "otel_celery_launcher.demo.web"],
                env=environ | {"OTEL_SERVICE_NAME": "shop-web"},
                cwd=folder,
                stderr=out,
                check=False,
            )
            expected = len(expected_paths())
            spans = receiver.wait_for(lambda came: len(came) >= expected, SPANS_SECONDS)
            runs = {each.span_id for each in spans if each.kind == "CONSUMER"}
            logs = receiver.wait_for_logs(
                lambda came: runs <= {each.span_id for each in came}, LOGS_SECONDS
            )
            Screen().show(arrange(spans, records=_in_traces(logs)))
            write_line("\nStopping the worker (Celery takes some seconds here) …")
        finally:
            _stop(worker)
    return log.read_text(errors="replace")


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
