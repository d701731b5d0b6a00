"""Calls that tracing adds to a publish and to a run: python -m tests.hot_path VARIANT

In one process and without a clock, so the same on every machine: what the profiler of the
interpreter counts, of functions in Python and in C. VARIANT is ``celery``, ``otel-celery``
or ``upstream`` (the contrib instrumentor with a BatchSpanProcessor and a meter provider). Prints JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app.trace import build_tracer
from opentelemetry import metrics, trace

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 50


def nothing() -> None:
    """What is to be done after an act, where nothing is."""


def set_up(variant: str) -> Callable[[], None]:
    """Trace this process as a pool child is traced; return what empties its channel."""
    if variant == "upstream":
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
            InMemorySpanExporter,
        )

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
        CeleryInstrumentor().instrument(skip_dep_check=True)
    elif variant == "otel-celery":
        from otel_celery_launcher.command_line import read_command_line
        from otel_celery_launcher.settings.settings import Settings
        from otel_celery_launcher.tasks.instrumentor import record_in_flight_runs
        from otel_celery_launcher.telemetry import setup

        os.environ["OTEL_SERVICE_NAME"] = "hot-worker"
        command_line = read_command_line(["-A", "hot", "worker"], os.environ)
        started = setup.start(Settings.from_environ(os.environ, command_line))
        record_in_flight_runs(started.counters.in_flight_record(1))
        assert started.channels is not None
        read = started.channels.main.read
        assert read is not None
        reader = socket.socket(fileno=os.dup(read))

        def empty() -> None:
            with suppress(BlockingIOError):
                while True:
                    reader.recv(1 << 20, socket.MSG_DONTWAIT)

        return empty
    return nothing


def request(number: int, flags: str) -> dict[str, Any]:
    """Return a request as a worker's main process hands it to a child."""
    task_id = f"8e2ba1a4-0000-4000-8000-{number:012}"
    now = time.time()
    return {
        "lang": "py", "task": "hot.noop", "id": task_id, "eta": None, "expires": None,
        "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None,
        "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@host", "args": [],
        "kwargs": {}, "reply_to": "reply", "correlation_id": task_id, "headers": None,
        "hostname": "celery@host", "is_eager": False, "ignore_result": True,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0},
        "traceparent": f"00-{number + 1:032x}-{number + 1:016x}-{flags}",
        "otel_celery_published": now, "otel_celery_received": now,
    }  # fmt: skip


def calls(act: Callable[[int], object], empty: Callable[[], None]) -> int:
    """Return how many calls one act makes, when all that is cached is."""
    for number in range(5):
        act(number)
        empty()
    count = 0

    def look(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for number in range(ROUNDS):
        sys.setprofile(look)
        act(number)
        sys.setprofile(None)
        empty()
    return count // ROUNDS


def main() -> None:
    """Count, and print."""
    empty = set_up(sys.argv[1])
    app = Celery("hot", broker="memory://", set_as_current=True)

    @app.task(name="hot.noop", ignore_result=True)  # type: ignore[untyped-decorator]
    def noop() -> None:
        pass

    @app.task(name="hot.inner", ignore_result=True)  # type: ignore[untyped-decorator]
    def inner() -> None:
        for _ in range(10):
            trace.get_tracer("hot").start_span("inner").end()

    app.finalize()

    def run(name: str, flags: str = "01") -> Callable[[int], object]:
        task = app.tasks[name]
        tracer = build_tracer(name, task, app=app, hostname="celery@host")
        return lambda number: tracer(f"{number}", [], {}, request(number, flags))

    print(
        json.dumps(
            {
                "publish": calls(lambda _: noop.apply_async(), empty),
                "run": calls(run("hot.noop"), empty),
                "run that is not sampled": calls(run("hot.noop", "00"), empty),
                "run with ten inner spans": calls(run("hot.inner"), empty),
            }
        )
    )


if __name__ == "__main__":
    main()
