"""Runs in flight, as a pool child records them, and a process that is dead."""

from __future__ import annotations

import os
import subprocess
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from otel_celery_launcher.ipc.in_flight import InFlightRun
from otel_celery_launcher.ipc.span_frames import encode_span_start

PROVIDER = TracerProvider()


def started_span(name: str = "run/shop.pay", **attributes: str) -> ReadableSpan:
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
    return InFlightRun(pid or os.getpid(), task_id, encode_span_start(started_span()))


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
