"""Instructions a task, counted by valgrind: make bench-instructions; eight minutes.

Times change by a tenth from run to run on a shared machine; instructions hardly do. A
worker with one child runs below valgrind, which counts from a first burst of tasks on to
the moment in which the last span of a second one has arrived. All takes fifty times as
long there, so what timers do in that time is not the tasks': it is counted while there is
no task, and taken off. Each process of the worker is counted by itself. What the kernel
executes is not counted.

    python bench/instructions.py [NAME …]   # of scenes: no-op, ten, unsampled, publish
    python bench/instructions.py --guard CELERY OTEL-CELERY   # folders of environments

What the exporter process executes here is more than it is: a worker that takes fifty times
as long sends one span at a time. For its share, see the CPU of paired runs (``cpu.py``).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import redis
from celery import Celery
from cpu import NOOP, TEN, UNSAMPLED, Scene, publish
from sink import Sink
from variants import CELERY, INLINE, PROCESS, UPSTREAM, Variant
from worker import APP, Life, environ_of, free_port, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WARM, COUNTED = 60, 400  # tasks

VALGRIND = (
    "valgrind", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes",
    "--collect-jumps=no", "--quiet",
)  # fmt: skip
DEADLINE = 120.0  # seconds
IDLE_SECONDS = 6.0

PUBLISH = Scene("a publish", "", 0, "01", 1)

SCENES = [NOOP, TEN, UNSAMPLED, PUBLISH]

# Publishes as many as a line of its input says, and says when it has.
PRODUCER = """
import sys
from bench_app import noop
for line in sys.stdin:
    for _ in range(int(line)):
        noop.delay()
    print("done", flush=True)
"""


class Parts(NamedTuple):
    """Thousands of instructions a task."""

    main: float
    children: float
    exporter: float

    @property
    def without_exporter(self) -> float:
        return self.main + self.children


class Counter:
    """Counts what the processes below one execute between two moments.

    Args:
        folder: In which valgrind writes.
        main: The first process.
    """

    def __init__(self, folder: Path, main: int) -> None:
        self._folder = folder
        self._dumps = 0
        self._roles: dict[int, str] = {}
        first = psutil.Process(main)
        for process in [first, *first.children(recursive=True)]:
            if "callgrind" in process.exe():
                is_exporter = "exporter_process" in " ".join(process.cmdline())
                role = "exporter" if is_exporter else "children"
                self._roles[process.pid] = "main" if process == first else role
                _tell(process.pid, "instrumentation", "on")
        time.sleep(IDLE_SECONDS)
        self.idle = Parts(*(each / IDLE_SECONDS for each in self._take()))
        self._began = time.monotonic()

    def a_task(self) -> Parts:
        """Return what a task has taken, of those since the making."""
        seconds = time.monotonic() - self._began
        pairs = zip(self._take(), self.idle, strict=True)
        return Parts(*((total - idle * seconds) / COUNTED for total, idle in pairs))

    def _take(self) -> Parts:
        """Return what was executed since the last call."""
        self._dumps += 1
        found = dict.fromkeys(Parts._fields, 0.0)
        for pid, role in self._roles.items():
            _tell(pid, "dump")
            text = (self._folder / f"{pid}.out.{self._dumps}").read_text()
            total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
            assert total is not None
            found[role] += int(total[1]) / 1000
        return Parts(**found)


def _tell(pid: int, *command: str) -> None:
    subprocess.run(
        ["vgdb", f"--pid={pid}", *command], check=True, timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait(is_done: Callable[[], bool], what: str) -> None:
    """Wait until something is done."""
    end = time.monotonic() + DEADLINE
    while not is_done():
        if time.monotonic() > end:
            sys.exit(f"waited {DEADLINE:.0f} s for {what}")
        time.sleep(0.05)


def a_task(variant: Variant, scene: Scene, folder: Path, broker: str) -> Parts:
    """Return what one task of a kind takes in a worker."""
    client = redis.Redis.from_url(broker)
    app, sink = Celery(broker=broker), Sink()

    def run(tasks: int, before: int = 0) -> None:
        """Put a burst into the queue at once, and wait for all that it causes."""
        publish(app, scene, tasks, "burst")
        client.rename("burst", "celery")
        wait(lambda: not (client.llen("celery") or client.hlen("unacked")), "tasks")
        if variant.counts:
            expected = (before + tasks) * scene.spans
            wait(lambda: sink.spans() >= expected, "spans")
        time.sleep(1.0)  # what follows an export

    life = Life(
        [*VALGRIND, f"--callgrind-out-file={folder}/%p.out", *variant.celery()],
        folder, _environ(broker, variant, sink), "-c", "1", "--without-heartbeat",
    )  # fmt: skip
    run(WARM)
    counter = Counter(folder, life.process.pid)
    run(COUNTED, before=WARM)
    found = counter.a_task()
    life.kill()
    sink.stop()
    return found


def a_publish(variant: Variant, folder: Path, broker: str) -> Parts:
    """Return what one publish takes in a script."""
    sink = Sink()
    (folder / "bench_app.py").write_text(APP)
    (folder / "producer.py").write_text(PRODUCER)
    with subprocess.Popen(
        [*VALGRIND, f"--callgrind-out-file={folder}/%p.out", *variant.python(), "producer.py"],
        cwd=folder, env=_environ(broker, variant, sink), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for number, count in enumerate((WARM, COUNTED)):
            if number:
                counter = Counter(folder, process.pid)
            print(count, file=process.stdin, flush=True)
            assert process.stdout.readline()
            if variant.counts:
                expected = WARM + number * COUNTED
                wait(lambda expected=expected: sink.spans() >= expected, "spans")
            time.sleep(1.0)
        found = counter.a_task()
        process.kill()
    sink.stop()
    return found


def _environ(broker: str, variant: Variant, sink: Sink) -> dict[str, str]:
    found = environ_of(broker) | variant.variables(sink.grpc, sink.http)
    # Queues are asked for in a process of its own, by time and not by tasks.
    return found | {"PYTHONHASHSEED": "0", "OTEL_CELERY_QUEUE_METRICS": "false"}


def measure(
    variants: list[Variant], scenes: list[Scene], folder: Path, port: int
) -> Iterator[tuple[Scene, Variant, Parts]]:
    """Count all; in turn, so that no two run at the same time."""
    database = 0
    for scene in scenes:
        for variant in variants:
            place = folder / f"instructions{database}"
            place.mkdir()
            broker = f"redis://127.0.0.1:{port}/{database}"
            found = (
                a_publish(variant, place, broker)
                if scene is PUBLISH
                else a_task(variant, scene, place, broker)
            )
            yield scene, variant, found
            database += 1


def shares(
    found: list[tuple[Scene, Variant, Parts]], variant: Variant
) -> dict[str, float]:
    """Return what a variant's worker executes more, as a share of upstream's, by scene."""
    counted = {(scene.name, each.name): parts for scene, each, parts in found}
    shares = {}
    for scene in dict.fromkeys(scene.name for scene, _, _ in found):
        plain, theirs, ours = (
            counted[scene, each.name].without_exporter
            for each in (CELERY, UPSTREAM, variant)
        )
        shares[scene] = (ours - plain) / (theirs - plain)
    return shares


def table(found: list[tuple[Scene, Variant, Parts]]) -> str:
    """Return a table for each scene."""
    lines = []
    for scene in dict.fromkeys(scene for scene, _, _ in found):
        by_variant = {each.name: parts for its, each, parts in found if its is scene}
        plain, upstream = by_variant[CELERY.name], by_variant.get(UPSTREAM.name)
        lines += [
            "",
            f"| {scene.name} | main | children | exporter | added | of upstream's | with the exporter |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, parts in by_variant.items():
            added = parts.without_exporter - plain.without_exporter
            ratios = ["-", "-"]
            if upstream:
                base = upstream.without_exporter - plain.without_exporter
                ratios = [
                    f"{each / base:.2f}" for each in (added, added + parts.exporter)
                ]
            cells = [f"{each:,.0f}" for each in (*parts, added)]
            lines.append(f"| {' | '.join([name, *cells, *ratios])} |")
    return "\n".join(lines)


def guard(plain: str, ours: str) -> None:
    """Print, as JSON, how much more of a no-op task is executed than by plain Celery.

    Args:
        plain: Folder of an environment with Celery.
        ours: Of one with this launcher, too.
    """
    variants = [replace(CELERY, folder=plain), replace(PROCESS, folder=ours)]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        server = start_redis(Path(name), port := free_port())

        def count(number: int) -> Parts:
            folder = Path(name) / str(number)
            folder.mkdir()
            broker = f"redis://127.0.0.1:{port}/{number}"
            return a_task(variants[number], NOOP, folder, broker)

        celery, launched = pool.map(count, range(2))
        server.terminate()
    more = {
        "main": launched.main / celery.main,
        "children": launched.children / celery.children,
    }
    print(json.dumps(more))


def main() -> None:
    """Print the tables."""
    if not shutil.which("vgdb"):
        sys.exit("this needs valgrind (Debian: apt-get install valgrind)")
    if sys.argv[1:2] == ["--guard"]:
        guard(*sys.argv[2:])
        return
    names = sys.argv[1:] or [""]
    scenes = [each for each in SCENES if any(name in each.name for name in names)]
    variants = [CELERY, UPSTREAM, PROCESS, INLINE]
    for variant in variants:
        variant.install()
    with tempfile.TemporaryDirectory() as name:
        server = start_redis(Path(name), port := free_port())
        found = []
        for each in measure(variants, scenes, Path(name), port):
            found.append(each)
            print(each[0].name, each[1].name, each[2], file=sys.stderr)
        server.terminate()
    print(table(found))


if __name__ == "__main__":
    main()
