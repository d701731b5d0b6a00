"""Start, stop, memory and recycling beside plain Celery, in one run, in turn.

    make bench            # or: python bench/lifecycle.py [ROUNDS]

Needs redis-server. Prints medians; timings are of this machine, so read the ratios.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from celery import Celery

from otel_celery_launcher.receiver import Receiver

BIN = Path(sys.executable).parent
APP = """
import os
from celery import Celery
app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.broker_connection_retry_on_startup = True
@app.task
def noop():
    pass
"""
CHILDREN = (1, 2, 4, 8)
RECYCLED = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Life:
    """One worker from start to stop."""

    def __init__(
        self, program: str, folder: Path, environ: dict[str, str], *options: str
    ):
        self.log = folder / "log"
        with self.log.open("wb") as out:
            start = time.monotonic()
            self.process = subprocess.Popen(
                [str(BIN / program), "-A", "bench_app", "worker", "-l", "INFO",
                 "--without-mingle", "--without-gossip", *options],
                cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while b" ready." not in self.log.read_bytes():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.005)
        self.ready = time.monotonic() - start

    def memory(self) -> float:
        """Return the PSS of all processes in MB."""
        main = psutil.Process(self.process.pid)
        total = 0
        for process in (main, *main.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 1e6

    def stop(self) -> float:
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - start


def run_tasks(app: Celery, count: int) -> float:
    start = time.monotonic()
    headers = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    results = [app.send_task("bench_app.noop", headers=headers) for _ in range(count)]
    for result in results:
        result.get(timeout=120)
    return time.monotonic() - start


def measure(program: str, folder: Path, environ: dict[str, str]) -> dict[str, float]:
    app = Celery(broker=environ["BENCH_BROKER"], backend=environ["BENCH_BROKER"])
    figures: dict[str, float] = {}
    for children in CHILDREN:
        life = Life(program, folder, environ, "-c", str(children))
        run_tasks(app, 50 * children)
        figures[f"memory, {children} children, MB"] = life.memory()
        stop = life.stop()
        if children == 2:
            figures["start to ready, s"] = life.ready
            figures["stop, s"] = stop
    life = Life(program, folder, environ, "-c", "1", "--max-tasks-per-child", "1")
    figures["recycled child, s"] = run_tasks(app, RECYCLED) / RECYCLED
    life.stop()
    return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        folder, port = Path(name), free_port()
        (folder / "bench_app.py").write_text(APP)
        redis = subprocess.Popen(
            ["redis-server", "--port", str(port), "--save", "", "--dir", name],
            stdout=subprocess.DEVNULL,
        )
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "ignore",
            "BENCH_BROKER": f"redis://127.0.0.1:{port}/0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_SERVICE_NAME": "bench-worker",
        }
        time.sleep(0.5)
        for number in range(rounds):
            for program in ("celery", "otel-celery"):
                print(f"round {number + 1}: {program}", file=sys.stderr)
                for key, value in measure(program, folder, environ).items():
                    found.setdefault(key, {}).setdefault(program, []).append(value)
        redis.terminate()
    print("| figure | celery | otel-celery | ratio |")
    print("| --- | --- | --- | --- |")
    for key, by_program in found.items():
        plain, ours = (
            statistics.median(by_program[p]) for p in ("celery", "otel-celery")
        )
        print(f"| {key} | {plain:.2f} | {ours:.2f} | {ours / plain:.2f} |")


if __name__ == "__main__":
    main()
