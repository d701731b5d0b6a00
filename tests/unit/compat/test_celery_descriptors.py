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
import os, sys, threading, time
if os.environ.get("AGAIN"):
    left = sorted(os.listdir("/dev/fd"), key=int)
    print("again", len(left))
    sys.exit()
os.environ["AGAIN"] = "1"
import grpc
from celery.apps.worker import _reload_current_worker
from otel_celery_launcher.compat.celery_descriptors import keep_descriptors_open

keep_descriptors_open(lambda: [])
channel = grpc.insecure_channel(sys.argv[1].removeprefix("http://"))
export = channel.unary_unary(
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export")

def work():
    while True:
        export(b"")

export(b"")
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
execute = os.execv
os.execv = lambda *words: (time.sleep(0.5), execute(*words))
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
    # Standard streams, and the folder that it reads.
    assert done.stdout.split() == ["again", "4"], done.stdout
