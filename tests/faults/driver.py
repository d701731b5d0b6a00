"""The fault driver: random faults on a loaded worker, and every task accounted for.

    make faults                         # some minutes, a random seed
    python -m tests.faults.driver SEED SECONDS

A task that has run tells Redis so after its run span has ended. At the end each of those
has exactly one span at the collector, or stands in the worker's drop counters.
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

from otel_celery_launcher.exporter.counters import Counters
from otel_celery_launcher.receiver import Receiver
from tests.clock import Clock
from tests.conftest import base_environ, free_port
from tests.harness import Launcher, Process, counters_of, wait_until

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

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in self.faults.items())
        return (
            f"seed {self.seed}: {self.ended} executions ended, {self.received} spans"
            f" received, {self.missing} missing, {self.twice} twice; {self.begun} runs"
            f" began, {self.untold} of them have no span; the worker counts"
            f" {self.counted} spans as lost, and was started {self.restarts} times more;"
            f" faults: {faults}"
        )


class Driver:
    """One worker, one broker, one collector, and what can happen to them.

    Args:
        folder: An empty folder.
        seed: Of the schedule.
        seconds: How long faults happen.
    """

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._seconds = seconds
        self._clock = Clock(folder)
        self._redis_port = free_port()
        self._redis: subprocess.Popen[bytes] | None = None
        self._collector = Receiver(port=free_port(), answer=self._answer)
        self._refuses = threading.Event()
        self._stalls = threading.Event()
        self._account = Account(seed)
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
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collector.endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
            **self._clock.environ,
        }
        try:
            with self._collector, Launcher(self._folder, environ) as launcher:
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
            "--max-tasks-per-child", "50", app="faulty"
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
        due: list[str] = []
        while time.monotonic() < end:
            with suppress(Exception):  # the broker is being restarted
                self._producer.send_task("faulty.work", (INNER,), retry=False)
            self._keep_worker()
            if time.monotonic() >= next_fault:
                if not due:  # each of them once, in a random order, and again
                    due = self._random.sample(list(self.faults), len(self.faults))
                name = due.pop()
                self._account.faults[name] += 1
                self.faults[name]()
                next_fault = time.monotonic() + self._random.uniform(0.5, 3)
            pause.wait(1 / LOAD)

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
        ended = {each.decode() for each in client.lrange("ended", 0, -1)}  # type: ignore[union-attr]

        def executions() -> list[str]:
            return [
                span.attributes["execution"]
                for span in list(self._collector.spans)
                if "execution" in span.attributes
            ]

        self._collector.wait_for(lambda _: ended <= set(executions()), 10)
        received = Counter(executions())
        account = self._account
        account.ended = len(ended)
        account.received = len(ended & set(received))
        account.missing = len(ended - set(received))
        ids = Counter(
            span.span_id for span in self._collector.spans if span.kind == "CONSUMER"
        )
        account.twice = sum(count - 1 for count in ids.values())
        begun = {each.decode() for each in client.lrange("started", 0, -1)}  # type: ignore[union-attr]
        account.begun = len(begun)
        account.untold = len(begun - set(ids))
        account.counted = sum(each.lost for each in self._counters)

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
        children = [
            child
            for child in psutil.Process(self._worker.popen.pid).children()
            if child.name() != "otel-exporter"
        ]
        if children:
            with suppress(psutil.NoSuchProcess):
                self._random.choice(children).kill()

    def _exporters(self) -> list[psutil.Process]:
        children = psutil.Process(self._worker.popen.pid).children()
        return [child for child in children if child.name() == "otel-exporter"]

    def _kill_exporter(self) -> None:
        for exporter in self._exporters():
            exporter.kill()

    def _stop_exporter(self) -> None:
        for exporter in self._exporters():
            exporter.suspend()
            seconds = self._random.choice([1.0, 11.0])
            threading.Timer(seconds, lambda e=exporter: resume(e)).start()

    def _collector_down(self) -> None:
        self._collector.stop()
        threading.Event().wait(self._random.uniform(0.2, 2))
        self._collector.start()

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
                "--save", "", "--appendonly", "yes", "--appendfsync", "always",
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
    sys.exit(max(account.missing, account.untold) > account.counted)


if __name__ == "__main__":
    main()
