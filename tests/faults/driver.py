"""The fault driver: random faults on a loaded worker, and every task accounted for.

    make faults                         # some minutes, a random seed
    python -m tests.faults.driver SEED SECONDS

A task that has run tells Redis so after its run span has ended. At the end each of those
has a span at the collector. What an exporter process was sending when it was killed may
come twice.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil
import redis
from celery import Celery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.receiver.grpc_server import GrpcServer
from otel_celery_launcher.signals import TRACES
from tests.support.clock import Clock
from tests.support.harness import Launcher, Process, counters_of, wait_until
from tests.support.processes import is_exporter, without_exporters
from tests.support.servers import base_environ, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

# Tasks a second; each makes a run span and two inner ones.
LOAD = 40
INNER = 2


@dataclass
class Account:
    """What became of everything."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    ended: int = 0  # executions whose run span ended
    received: int = 0  # of those, with a span at the collector
    missing: int = 0
    twice: int = 0  # run spans that came more than once
    begun: int = 0  # runs that began, however they ended
    untold: int = 0  # of those, without a span at the collector
    counted: int = 0  # spans that the worker counts as lost
    restarts: int = 0

    @property
    def exporter_deaths(self) -> int:
        """How many exporter processes were killed, by the driver or for their silence."""
        return self.faults["exporter killed"] + self.faults["exporter stopped"]

    @property
    def is_good(self) -> bool:
        """Whether all arrived, and at most what was in flight came twice.

        A pool child that is killed while the exporter process is stopped may have spans
        for which the kernel's buffer has no room; its successor counts them.
        """
        lost = max(self.missing, self.untold)
        is_whole = lost <= (self.counted if self.faults["exporter stopped"] else 0)
        return is_whole and self.twice <= TRACES.batch * self.exporter_deaths

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in self.faults.items())
        return (
            f"seed {self.seed}: {self.ended} executions ended, {self.received} spans"
            f" received, {self.missing} missing, {self.twice} twice; {self.begun} runs"
            f" began, {self.untold} of them have no span; the worker counts"
            f" {self.counted} spans as lost, and was started {self.restarts} times more;"
            f" faults: {faults}"
        )


class Books:
    """A collector that keeps which runs came, and how often.

    Args:
        answer: Called before a request is taken; may abort it.
    """

    def __init__(self, answer: Callable[[grpc.ServicerContext], None]) -> None:
        self._answer = answer
        self._port = free_port()
        self._server: GrpcServer | None = None
        self._lock = threading.Lock()
        self.runs: Counter[int] = Counter()  # by span id
        self.spans = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Books:
        self._server = GrpcServer(self._take, self._port)
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Books:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take(self, data: bytes, context: grpc.ServicerContext) -> None:
        self._answer(context)
        request = ExportTraceServiceRequest.FromString(data)
        with self._lock:
            for block in request.resource_spans:
                for part in block.scope_spans:
                    self.spans += len(part.spans)
                    self.runs.update(
                        int.from_bytes(span.span_id, "big")
                        for span in part.spans
                        if span.kind == Span.SPAN_KIND_CONSUMER
                    )


class Driver:
    """One worker, one broker, one collector, and what can happen to them.

    Args:
        folder: An empty folder.
        seed: Of the schedule.
        seconds: How long faults happen.
    """

    tasks_per_child = 50
    fsync = "always"  # of redis-server

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._seconds = seconds
        self._clock = Clock(folder)
        self._redis_port = free_port()
        self._redis: subprocess.Popen[bytes] | None = None
        self._books = Books(self._answer)
        self._refuses = threading.Event()
        self._stalls = threading.Event()
        self._account = Account(seed)
        self._due: list[str] = []
        self._counters: list[Counters] = []  # of each life of the worker
        self._launcher: Launcher
        self._worker: Process
        self._broker = f"redis://127.0.0.1:{self._redis_port}/0"
        self._producer = Celery("producer", broker=self._broker)
        self.faults: dict[str, Callable[[], None]] = {
            "child killed": self._kill_child,
            "exporter killed": self._kill_exporter,
            "exporter stopped": self._stop_exporter,
            "collector down": self._collector_down,
            "collector stalled": self._collector_stalled,
            "collector refusing": self._collector_refusing,
            "broker restarted": self._restart_broker,
            "descriptors exhausted": self._exhaust_descriptors,
            "clock stepped": self._step_clock,
        }

    def run(self) -> Account:
        """Load the worker, let faults happen, heal, stop, account."""
        self._start_broker()
        environ = base_environ(self._folder) | {
            "SHOP_BROKER": self._broker,
            "SHOP_BACKEND": self._broker,
            "SHOP_ACKS_LATE": "1",
            "OTEL_SERVICE_NAME": "shop-worker",
            "OTEL_CELERY_EXPORT": "process",
            "OTEL_CELERY_SHUTDOWN_SECONDS": "30",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._books.endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
            **self._clock.environ,
        }
        try:
            with self._books, Launcher(self._folder, environ) as launcher:
                self._launcher = launcher
                self._start_worker()
                self._load()
                self._settle()
                self._worker.stop(signal.SIGTERM, 60)
                self._count()
        finally:
            self._stop_broker()
        return self._account

    def _start_worker(self) -> None:
        self._worker = self._launcher.worker(
            "--max-tasks-per-child", str(self.tasks_per_child), app="faulty"
        )
        self._counters.append(counters_of(self._worker))

    def _keep_worker(self) -> None:
        """Do what systemd does: some kombu releases die of a broker's restart."""
        if self._worker.popen.poll() is not None:
            self._account.restarts += 1
            self._start_worker()

    def _load(self) -> None:
        end = time.monotonic() + self._seconds
        pause = threading.Event()
        next_fault = time.monotonic() + 1
        while time.monotonic() < end:
            with suppress(Exception):  # the broker is being restarted
                self._producer.send_task("faulty.work", (INNER,), retry=False)
            self._keep_worker()
            if time.monotonic() >= next_fault:
                self._fault(list(self.faults))
                next_fault = time.monotonic() + self._random.uniform(0.5, 3)
            pause.wait(1 / LOAD)

    def _fault(self, names: list[str]) -> None:
        """Let one of these happen: each of them once, in a random order, and again."""
        self._due = [each for each in self._due if each in names]
        if not self._due:
            self._due = self._random.sample(names, len(names))
        name = self._due.pop()
        self._account.faults[name] += 1
        self.faults[name]()

    def _settle(self) -> None:
        """Wait until nothing is queued and nothing runs."""
        client = redis.Redis(port=self._redis_port)
        still = [0, 0.0]

        def is_quiet() -> bool:
            self._keep_worker()
            ended = int(client.llen("ended"))
            if ended != still[0] or client.llen("celery"):
                still[:] = [ended, time.monotonic()]
            return time.monotonic() - still[1] > 3

        wait_until(is_quiet, 120, "the queue is empty and no task ends any more")

    def _count(self) -> None:
        client = redis.Redis(port=self._redis_port)

        def told(key: str) -> set[int]:
            return {int(each, 16) for each in client.lrange(key, 0, -1)}

        ended, begun = told("ended"), told("started")
        runs = self._books.runs
        end = time.monotonic() + 10
        while not ended <= runs.keys() and time.monotonic() < end:
            threading.Event().wait(0.1)
        account = self._account
        account.ended = len(ended)
        account.received = len(ended & runs.keys())
        account.missing = len(ended - runs.keys())
        account.twice = sum(count - 1 for count in runs.values())
        account.begun = len(begun)
        account.untold = len(begun - runs.keys())
        account.counted = sum(each.of(TRACES).lost for each in self._counters)

    # Faults.

    def _answer(self, context: grpc.ServicerContext) -> None:
        if self._stalls.is_set():
            threading.Event().wait(3)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "stalled")
        if self._refuses.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")

    def _later(self, action: Callable[[], object]) -> None:
        threading.Timer(self._random.uniform(0.5, 3), action).start()

    def _kill_child(self) -> None:
        children = without_exporters(psutil.Process(self._worker.popen.pid).children())
        if children:
            with suppress(psutil.NoSuchProcess):
                self._random.choice(children).kill()

    def _exporters(self) -> list[psutil.Process]:
        children = psutil.Process(self._worker.popen.pid).children()
        return [child for child in children if is_exporter(child)]

    def _kill_exporter(self) -> None:
        for exporter in self._exporters():
            exporter.kill()

    def _stop_exporter(self) -> None:
        for exporter in self._exporters():
            exporter.suspend()
            seconds = self._random.choice([1.0, 11.0])
            threading.Timer(seconds, lambda e=exporter: resume(e)).start()

    def _collector_down(self) -> None:
        self._books.stop()
        threading.Event().wait(self._random.uniform(0.2, 2))
        self._books.start()

    def _collector_stalled(self) -> None:
        self._stalls.set()
        self._later(self._stalls.clear)

    def _collector_refusing(self) -> None:
        self._refuses.set()
        self._later(self._refuses.clear)

    def _restart_broker(self) -> None:
        self._stop_broker()
        self._start_broker()

    def _exhaust_descriptors(self) -> None:
        with suppress(Exception):  # the broker is being restarted
            self._producer.send_task("faulty.exhaust", retry=False)

    def _step_clock(self) -> None:
        # Less than Redis's visibility timeout, after which tasks run a second time.
        self._clock.step(self._random.uniform(-1200, 1200))

    def _start_broker(self) -> None:
        self._redis = subprocess.Popen(
            [
                "redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1",
                "--save", "", "--appendonly", "yes", "--appendfsync", self.fsync,
                "--dir", str(self._folder),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        client = redis.Redis(port=self._redis_port)

        def answers() -> bool:
            with suppress(redis.ConnectionError):
                return bool(client.ping())
            return False

        wait_until(answers, 10, "redis-server answers")

    def _stop_broker(self) -> None:
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait()


def resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 120.0
    with tempfile.TemporaryDirectory() as folder:
        account = Driver(Path(folder), seed, seconds).run()
    print(account)
    sys.exit(not account.is_good)


if __name__ == "__main__":
    main()
