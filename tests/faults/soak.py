"""A million tasks under faults: python -m tests.faults.soak [TASKS [SEED]]: make soak

In the first half everything can happen that ``driver.py`` knows. In the second, what
leaves the worker's main process and its exporter process alive: they are looked at every
ten seconds, and have to stay what they were. Prints a table; the exit status tells
whether every task has its span and everything stayed flat.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil
import redis

from tests.faults.driver import Driver

SAMPLE_SECONDS = 10
FAULT_SECONDS = 5, 15  # between two
LOOK_SECONDS = 0.2
KEEPS_PROCESSES = [
    "child killed", "collector down", "collector stalled", "collector refusing",
]  # fmt: skip

# How far a process may be from where it was: caches fill, queues are not empty.
FLAT_MB = 8.0
FLAT_DESCRIPTORS = 4
FLAT_THREADS = 2


class Sample(NamedTuple):
    """A process at a moment."""

    name: str
    pid: int
    memory: float  # resident, MB
    descriptors: int
    threads: int


class Soak(Driver):
    """The driver, loaded by a publisher of its own.

    Args:
        folder: An empty folder.
        seed: Of the schedule.
        tasks: How many are published.
    """

    tasks_per_child = 5000
    fsync = "everysec"  # it is stopped, never killed, and so loses nothing

    def __init__(self, folder: Path, seed: int, tasks: int) -> None:
        super().__init__(folder, seed, 0)
        self._tasks = tasks
        self.samples: list[Sample] = []  # of the second half
        self.seconds = 0.0

    def _load(self) -> None:
        start = time.monotonic()
        command = [sys.executable, "-m", "tests.faults.publisher", self._broker]
        with subprocess.Popen([*command, str(self._tasks)]) as publisher:
            client = redis.Redis(port=self._redis_port)
            next_fault = next_sample = start
            done = 0
            while _goes_on(publisher, LOOK_SECONDS):
                self._keep_worker()
                now = time.monotonic()
                is_second_half = done > self._tasks / 2
                if now >= next_fault:
                    self._fault(
                        KEEPS_PROCESSES if is_second_half else list(self.faults)
                    )
                    next_fault = time.monotonic() + self._random.uniform(*FAULT_SECONDS)
                if now >= next_sample:
                    next_sample = now + SAMPLE_SECONDS
                    done = self._done(client, done)
                    if is_second_half:
                        self.samples += self._sample()
                    rate = done / (now - start + 1)
                    print(f"{done:,} tasks, {rate:.0f} a second", file=sys.stderr)
        self.seconds = time.monotonic() - start

    @staticmethod
    def _done(client: redis.Redis, before: int) -> int:
        try:
            return int(client.llen("ended"))
        except redis.ConnectionError:  # it is being restarted
            return before

    def _sample(self) -> list[Sample]:
        found = []
        main = psutil.Process(self._worker.popen.pid)
        exporters = [("exporter process", each) for each in self._exporters()]
        for name, process in [("main process", main), *exporters]:
            with process.oneshot():
                memory = process.memory_info().rss / 1e6
                threads, descriptors = process.num_threads(), process.num_fds()
            found.append(Sample(name, process.pid, memory, descriptors, threads))
        return found

    def drifts(self) -> list[tuple[str, str, str, bool]]:
        """Return what, the values from the first quarter to the last, whether flat."""
        rows = []
        for name in ("main process", "exporter process"):
            of_name = [each for each in self.samples if each.name == name]
            life = [each for each in of_name if each.pid == of_name[-1].pid]
            if len(life) < 2:
                rows.append((name, "too short a run", "", False))
                continue
            quarter = max(1, len(life) // 4)
            for what, bound, shown in (
                ("memory", FLAT_MB, "MB"),
                ("descriptors", FLAT_DESCRIPTORS, ""),
                ("threads", FLAT_THREADS, ""),
            ):
                values = [float(getattr(each, what)) for each in life]
                first = statistics.median(values[:quarter])
                last = statistics.median(values[-quarter:])
                text = f"{first:.0f} → {last:.0f} {shown}".strip()
                rows.append(
                    (f"{what} of the {name}", text, str(bound), last - first <= bound)
                )
        return rows


def _goes_on(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether a process goes on for so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), seed, tasks)
        account = soak.run()
    drifts = soak.drifts()
    names = ("otel-celery-launcher", "celery", "opentelemetry-sdk")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(
        f"`make soak TASKS={tasks} SEED={seed}`, {time.strftime('%Y-%m-%d', time.gmtime())};"
        f" {versions}, Python {platform.python_version()};"
        f" {soak.seconds / 60:.0f} minutes.\n\n{account}.\n"
    )
    print("| second half | first quarter → last | flat within |")
    print("| --- | --- | --- |")
    for what, text, bound, is_flat in drifts:
        print(f"| {what} | {text}{'' if is_flat else ' **not flat**'} | {bound} |")
    is_good = account.is_good and all(each[3] for each in drifts)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
