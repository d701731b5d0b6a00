"""A broker, a worker, and what they take of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

APP = '''
import os
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_proc_alive_timeout = 60.0  # below valgrind a child begins slowly


@app.task
def noop():
    pass


@app.task
def dies():
    """End as the kernel ends a process that takes too much memory."""
    os.kill(os.getpid(), 9)


@app.task
def ten():
    """Ten inner spans."""
    from opentelemetry import trace

    tracer = trace.get_tracer("bench")
    for _ in range(10):
        with tracer.start_as_current_span("inner"):
            pass


@app.task
def flood(count):
    """Inner spans as fast as one process can make them."""
    from opentelemetry import trace

    tracer = trace.get_tracer("bench")
    for number in range(count):
        with tracer.start_as_current_span("inner") as span:
            span.set_attribute("number", number)
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server and wait until it listens."""
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder),
         "--databases", "64"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            time.sleep(0.02)
    return server


def environ_of(broker: str) -> dict[str, str]:
    """Return the environment of every worker."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONWARNINGS": "ignore",
        "BENCH_BROKER": broker,
        "OTEL_SERVICE_NAME": "bench-worker",
    }


class Life:
    """One worker from start to stop.

    Args:
        command: What stands for ``celery``.
        folder: To run in; the application is written there.
        environ: All of it.
        options: Of the worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        *options: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "bench_app.py").write_text(APP)
        self.log = folder / "log"
        with self.log.open("wb") as out:
            start = time.monotonic()
            self.process = subprocess.Popen(
                [*command, "-A", "bench_app", "worker", "-l", "INFO",
                 "--without-mingle", "--without-gossip", *options],
                cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while b" ready." not in self.log.read_bytes():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.002)
        self.ready = time.monotonic() - start

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def cpu(self) -> tuple[float, float, float]:
        """Return CPU seconds of the main process, the children, the exporter process."""
        main, *below = self._processes()
        exporters = [each for each in below if each.name() == "otel-exporter"]
        children = [each for each in below if each not in exporters]
        return seconds_of([main]), seconds_of(children), seconds_of(exporters)

    def memory(self) -> tuple[float, float]:
        """Return the PSS of all processes but the exporter process, and its own, in MB."""
        total = {True: 0, False: 0}
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                is_exporter = process.name() == "otel-exporter"
                total[is_exporter] += process.memory_full_info().pss
        return total[False] / 1e6, total[True] / 1e6

    def connections(self, ports: tuple[int, ...]) -> int:
        """Return how many connections to the receiver the worker holds."""
        count = 0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                count += sum(
                    bool(each.raddr) and each.raddr.port in ports
                    and each.status == psutil.CONN_ESTABLISHED
                    for each in process.net_connections("tcp")
                )  # fmt: skip
        return count

    def kill(self) -> None:
        """End all processes at once."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def stop(self) -> float:
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        return time.monotonic() - start


def seconds_of(processes: list[psutil.Process]) -> float:
    """Return CPU seconds, of all threads, by the scheduler's own count (proc(5))."""
    total = 0
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread may end meanwhile
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9
