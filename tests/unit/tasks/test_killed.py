"""Runs whose process is dead."""

from __future__ import annotations

import os
import subprocess
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from otel_celery_launcher.ipc.counters import POOL_ROWS, Counters
from otel_celery_launcher.ipc.in_flight import InFlightRun, Reason
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.ipc.span_frames import encode_span_start
from otel_celery_launcher.tasks.killed import KilledRuns

PROVIDER = TracerProvider()


def a_span(name: str = "run/shop.pay", **attributes: str) -> ReadableSpan:
    parent = SpanContext(1 << 127, 7, is_remote=True, trace_flags=TraceFlags(1))
    span = PROVIDER.get_tracer("tests").start_span(
        name,
        trace.set_span_in_context(trace.NonRecordingSpan(parent)),
        attributes=attributes,
        links=[trace.Link(parent, attributes)],
        start_time=5,
    )
    assert isinstance(span, ReadableSpan)
    return span


def a_run(pid: int = 0, task_id: str = "id") -> InFlightRun:
    return InFlightRun(pid or os.getpid(), task_id, encode_span_start(a_span()))


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_the_runs_of_dead_processes_are_ended() -> None:
    counters = Counters()
    ended: list[tuple[int, InFlightRun, int, Reason | None]] = []
    killed = KilledRuns(counters, ProcessClaim(), lambda *run: ended.append(run))
    counters.in_flight[POOL_ROWS[0]].current.write(*a_run())
    dead = a_run(pid=a_dead_process(), task_id="dead")
    counters.in_flight[POOL_ROWS[3]].current.write(*dead)
    killed.poll()
    assert not ended, "Celery may have something to say"
    killed._task_failure(task_id="dead", exception=ValueError("why"))
    killed.poll()
    ((slot, task, _, reason),) = ended
    assert (slot, task) == (3, dead)
    assert reason == {"error.type": "builtins.ValueError", "text": "why"}
    killed.poll()
    assert len(ended) == 1
    killed.poll(is_end=True)
    assert len(ended) == 2, "at the end of the worker nothing runs any more"
