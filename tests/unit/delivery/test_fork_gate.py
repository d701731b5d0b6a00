# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A process that exports in a thread can be forked: nothing crashes, nothing waits long."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

from otel_celery_launcher.delivery.exporters import PreparedExporter
from otel_celery_launcher.delivery.fork_gate import FORK_WAIT_SECONDS, guard
from otel_celery_launcher.receiver.memory import Receiver

# Without the gate, 1 of 18 of these processes ends by SIGSEGV or SIGABRT.
PROGRAM = """
import os, threading, time
from collections import Counter
from opentelemetry.sdk.trace import TracerProvider
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.delivery import fork_gate
from otel_celery_launcher.delivery.fork_gate import guard
from otel_celery_launcher.signals import TRACES

fork_gate.FORK_WAIT_SECONDS = 20  # of a busy machine
made, _ = load_exporters(TRACES, ["otlp_proto_grpc"], redacts_exceptions=False)
make = guard(made["otlp_proto_grpc"])
span = TracerProvider().get_tracer("test").start_span("exported")
span.end()
sent = threading.Event()

def open_channels():
    while True:
        exporter = make()
        if exporter.export([span]):
            sent.set()
        with fork_gate.GATE.exporting():
            exporter.shutdown()
            time.sleep(0.05)  # gRPC's own handler may hang just after that
        time.sleep(0.001)

threading.Thread(target=open_channels, daemon=True).start()
assert sent.wait(20)
ends = Counter()
for _ in range(100):
    pid = os.fork()
    if not pid:
        os._exit(0)
    ends[os.waitpid(pid, 0)[1]] += 1
print(dict(ends), flush=True)
os._exit(0)
"""


def test_a_fork_in_the_middle_of_an_export_crashes_nothing(collector: Receiver) -> None:
    environ = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environ, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "{0: 100}", done.stderr[-2000:]


class _Hangs:
    """An exporter whose collector does not answer."""

    def __init__(self) -> None:
        self.began, self.answer = threading.Event(), threading.Event()

    def export(self, _: object) -> None:
        self.began.set()
        self.answer.wait(60)

    def shutdown(self) -> None:
        """Do nothing."""


def _fork() -> float:
    """Fork; return how many seconds that took."""
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0)
    seconds = time.monotonic() - began
    os.waitpid(pid, 0)
    return seconds


def test_a_fork_waits_once_for_an_export_that_hangs() -> None:
    hanging = _Hangs()
    exporter = guard(lambda: PreparedExporter(hanging, []))()
    thread = threading.Thread(target=exporter.export, args=([],), daemon=True)
    thread.start()
    assert hanging.began.wait(20)
    first = _fork()
    later = min(_fork() for _ in range(5))
    hanging.answer.set()
    thread.join(20)
    assert not thread.is_alive()
    assert later < FORK_WAIT_SECONDS / 2 < FORK_WAIT_SECONDS <= first


def test_exports_go_on_after_a_fork_in_both_processes() -> None:
    exported: list[Any] = []

    class Takes(_Hangs):
        def export(self, items: object) -> None:
            exported.append(items)

    exporter = guard(lambda: PreparedExporter(Takes(), []))()
    exporter.export(["before"])
    pid = os.fork()
    if not pid:
        exporter.export(["in the child"])
        os._exit(len(exported))
    exporter.export(["in the parent"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    assert exported == [["before"], ["in the parent"]]
