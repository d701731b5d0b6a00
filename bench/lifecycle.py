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
from typing import TYPE_CHECKING

import psutil
from celery import Celery

from otel_celery_launcher.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
CHILDREN = (1, 2, 4, 8, 16)
RECYCLED = 20

VARIANTS = {
    "celery": ("celery", ""),
    "process": ("otel-celery", "process"),
    "inline": ("otel-celery", "inline"),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server and wait until it listens."""
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            time.sleep(0.02)
    return server


def environ_of(receiver: Receiver, port: int) -> dict[str, str]:
    """Return the environment of every worker."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONWARNINGS": "ignore",
        "BENCH_BROKER": f"redis://127.0.0.1:{port}/0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_SERVICE_NAME": "bench-worker",
    }


class Life:
    """One worker from start to stop."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        environ: Mapping[str, str],
        *options: str,
    ) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as out:
            start = time.monotonic()
            self.process = subprocess.Popen(
                [*map(str, command), "-A", "bench_app", "worker", "-l", "INFO",
                 "--without-mingle", "--without-gossip", *options],
                cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while b" ready." not in self.log.read_bytes():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.005)
        self.ready = time.monotonic() - start

    def cpu(self) -> tuple[float, float, float]:
        """Return CPU seconds of the main process, the children, the exporter process."""
        main = psutil.Process(self.process.pid)
        below = main.children(recursive=True)
        exporters = [each for each in below if each.name() == "otel-exporter"]
        children = [each for each in below if each not in exporters]
        return seconds_of([main]), seconds_of(children), seconds_of(exporters)

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


def seconds_of(processes: list[psutil.Process]) -> float:
    """Return CPU seconds, of all threads, by the scheduler's own count (proc(5))."""
    total = 0
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


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
        life = Life([BIN / program], folder, environ, "-c", str(children))
        run_tasks(app, 50 * children)
        figures[f"memory, {children} children, MB"] = life.memory()
        stop = life.stop()
        if children == 2:
            figures["start to ready, s"] = life.ready
            figures["stop, s"] = stop
    life = Life(
        [BIN / program], folder, environ, "-c", "1", "--max-tasks-per-child", "1"
    )
    figures["recycled child, s"] = run_tasks(app, RECYCLED) / RECYCLED
    life.stop()
    return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        folder, port = Path(name), free_port()
        (folder / "bench_app.py").write_text(APP)
        server = start_redis(folder, port)
        environ = environ_of(receiver, port)
        for number in range(rounds):
            for variant, (program, mode) in VARIANTS.items():
                print(f"round {number + 1}: {variant}", file=sys.stderr)
                environ["OTEL_CELERY_EXPORT"] = mode
                for key, value in measure(program, folder, environ).items():
                    found.setdefault(key, {}).setdefault(variant, []).append(value)
        server.terminate()
    print("| figure | celery | process | inline | process/celery | inline/celery |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key, by_variant in found.items():
        medians = [statistics.median(by_variant[each]) for each in VARIANTS]
        ratios = [each / medians[0] if medians[0] else 0 for each in medians[1:]]
        print(
            f"| {key} | " + " | ".join(f"{each:.2f}" for each in medians + ratios), "|"
        )


if __name__ == "__main__":
    main()
