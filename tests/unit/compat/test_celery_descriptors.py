"""What Celery closes while gRPC's threads work, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver

# Celery's own restart, in the midst of exports; executed anew, it says so and ends.
PROGRAM = """
import os, sys, threading
if len(sys.argv) > 2:  # executed anew: what is left of two pipes?
    for each in sys.argv[2:]:
        try:
            os.fstat(int(each))
            print("open")
        except OSError:
            print("closed")
    sys.exit()
import grpc
from celery.apps.worker import _reload_current_worker
from otel_celery_launcher.compat.celery_descriptors import keep_descriptors_open

pipes = [*os.pipe(), *os.pipe()]
for each in pipes:
    os.set_inheritable(each, True)
sys.argv += map(str, pipes)
keep_descriptors_open(lambda: pipes[2:])
channel = grpc.insecure_channel(sys.argv[1].removeprefix("http://"))
export = channel.unary_unary(
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export")

done = threading.Event()

def work():
    while True:
        export(b"")
        done.set()

export(b"")
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
execute = os.execv

def execute_late(*words):
    for _ in range(50):  # in which the threads go on
        done.clear()
        done.wait(5)
    execute(*words)

os.execv = execute_late
_reload_current_worker()
"""


def test_a_worker_executes_itself_while_grpc_works(
    collector: Receiver, tmp_path: Path
) -> None:
    """gRPC fails, or aborts its process, where descriptors are closed under it."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program, collector.endpoint],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["closed", "closed", "open", "open"]
