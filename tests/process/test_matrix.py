"""Every pool, started in every way, in both modes: all spans arrive, once.

docs/compatibility.md is written from these tests: `make compatibility`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import assert_nothing_left, daemon_of, detached_worker, multi
from tests.support.harness import (
    SPAWN,
    Process,
    Producer,
    assert_each_run_once,
    runs,
    wait_until,
)
from tests.support.otlp_http import http_receiver

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

POOLS = {
    "prefork": ["-c2"],
    "prefork, spawn": ["-c2", *SPAWN],
    "prefork, 2 tasks a child": ["-c2", "--max-tasks-per-child=2"],
    "threads": ["-c2", "-P", "threads"],
    "solo": ["-P", "solo"],
    "gevent": ["-P", "gevent"],
    "eventlet": ["-P", "eventlet"],
}
STARTS = ("foreground", "-B", "--detach", "multi")
MODES = ("process", "inline")
TASKS = 20


def is_wanted(pool: str, start: str, mode: str) -> bool:
    """`make compatibility` wants all; `make test` one mode where the other adds little."""
    if os.environ.get("WHOLE_MATRIX") or start == "foreground":
        return True
    return mode == ("inline" if pool in ("solo", "threads") else "process")


CELLS = [
    pytest.param(pool, start, mode, id=f"{pool}-{start}-{mode}")
    for pool in POOLS
    for start in STARTS
    for mode in MODES
    if is_wanted(pool, start, mode)
]


@pytest.mark.parametrize(("pool", "start", "mode"), CELLS)
def test_all_spans_arrive_once(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    pool: str,
    start: str,
    mode: str,
) -> None:
    if start == "-B" and pool in ("gevent", "eventlet"):
        refused = launcher.run("-A", "shop", "worker", "-B", *POOLS[pool])
        assert refused.returncode == 1
        assert "-B option doesn't work with eventlet/gevent" in refused.stderr
        return
    if pool.endswith("spawn") and not SPAWN:
        pytest.skip("this Celery only forks")
    environ = {"OTEL_CELERY_EXPORT": mode}
    if mode == "inline" and pool in ("gevent", "eventlet"):
        with http_receiver(collector) as url:  # gRPC would block their event loops
            environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
            live(launcher, collector, broker, pool, start, environ)
    else:
        live(launcher, collector, broker, pool, start, environ)


def wait_for_a_tick(worker: Process) -> None:
    """Wait until one of beat's tasks has just run.

    A worker that is stopped while it receives a task may wait for ever: plain Celery does
    so in one stop of seven (prefork, a task published within 10 ms of SIGTERM).
    """
    before = worker.output.count("] succeeded in ")

    def has_run() -> bool:
        output = worker.output
        done = output.count("] succeeded in ")
        return before < done == output.count("] received")

    wait_until(has_run, 10, "a task of beat's has run")


def live(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    pool: str,
    start: str,
    environ: dict[str, str],
) -> None:
    """Start, run tasks, stop, and count."""
    options = POOLS[pool]
    daemon = daemon_of(launcher, "w1")
    foreground = None
    if start == "--detach":
        detached_worker(launcher, *options, **environ)
    elif start == "multi":
        multi(launcher, "start", "w1", *options, **environ)
        daemon.wait_for_log(" ready.")
    else:
        beat = ["-B"] if start == "-B" else []
        foreground = launcher.worker(*options, *beat, **environ)
    producer = Producer(broker)
    producer.send_many("shop.noop", TASKS)
    producer.wait_for_results()
    if start == "-B" and foreground is not None:
        tick = "apply_async/shop.noop"  # a spawned beat takes its time
        wait_until(lambda: tick in {s.name for s in collector.spans}, 30, "beat's span")
        wait_for_a_tick(foreground)
    if foreground is not None:
        foreground.stop()
        assert foreground.popen.returncode == 0
    elif start == "multi":
        multi(launcher, "stopwait", "w1")
    else:
        daemon.stop()
    assert_each_run_once(collector, producer)
    if start == "-B":
        published = {s.trace_id for s in collector.spans if s.kind == "PRODUCER"}
        ran = {span.trace_id for span in runs(collector.spans)}
        assert ran - set(producer.parents) <= published
    assert_nothing_left(launcher, daemon.pidfile)
