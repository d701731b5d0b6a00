"""Instructions a task, counted by valgrind: make bench-instructions; ten minutes.

Times change by a tenth from run to run on a shared machine; instructions hardly do. A
worker with one child runs a few tasks below valgrind, and again with more of them. What
the second run has executed more, divided by the tasks that it had more, is one task's:
what comes before the first task and after the last one is the same in both. All
processes of the worker are counted, each by itself. What the kernel executes is not.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from celery import Celery
from cpu import NOOP, TEN, UNSAMPLED, Scene
from sink import Sink
from variants import CELERY, PROCESS, UPSTREAM, Variant
from worker import Life, environ_of, free_port, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW, MANY = 50, 450  # tasks
PARTS = ("main", "children", "exporter")

VALGRIND = (
    "valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes",
    "--cachegrind-out-file=/dev/null",
)  # fmt: skip
_COUNTED = re.compile(r"I +refs: +([\d,]+)")


def counted(
    variant: Variant, scene: Scene, tasks: int, folder: Path, port: int
) -> dict[str, int]:
    """Return the instructions of a worker's life, by the part that executed them."""
    broker = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(broker)
    client.flushall()
    app = Celery(broker=broker)
    for number in range(1, tasks + 1):
        traceparent = f"00-{number:032x}-{number:016x}-{scene.flags}"
        app.send_task(
            f"bench_app.{scene.task}",
            headers={"traceparent": traceparent},
            ignore_result=True,
        )
    sink = Sink()
    environ = environ_of(broker) | variant.variables(sink.grpc, sink.http)
    environ["PYTHONHASHSEED"] = "0"
    command = [*VALGRIND, f"--log-file={folder}/%p.counted", *variant.celery()]
    life = Life(command, folder, environ, "-c", "1", "--without-heartbeat")
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.1)
    life.process.send_signal(signal.SIGTERM)
    life.process.wait(300)
    sink.stop()
    return dict(_by_part(folder, life.process.pid))


def _by_part(folder: Path, main: int) -> Iterator[tuple[str, int]]:
    found = dict.fromkeys(PARTS, 0)
    for log in folder.glob("*.counted"):
        text = log.read_text()
        number = _COUNTED.search(text)
        if number is None:
            continue
        part = "children"
        if "exporter_process" in text:
            part = "exporter"
        elif log.stem == str(main):
            part = "main"
        found[part] += int(number[1].replace(",", ""))
        log.unlink()
    yield from found.items()


def a_task(variant: Variant, scene: Scene, folder: Path, port: int) -> dict[str, float]:
    """Return the thousands of instructions of one task, by part."""
    few, many = (counted(variant, scene, each, folder, port) for each in (FEW, MANY))
    return {part: (many[part] - few[part]) / (MANY - FEW) / 1000 for part in PARTS}


def main() -> None:
    """Print a table for each kind of task."""
    scenes = [NOOP, TEN, UNSAMPLED]
    if "--quick" in sys.argv:
        scenes = [NOOP]
    variants = [CELERY, UPSTREAM, PROCESS]
    for variant in variants:
        variant.install()
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        server = start_redis(Path(name), port)
        for scene in scenes:
            print(f"\n| {scene.name}, thousands of instructions | main | children"
                  " | exporter | added | of upstream's |")  # fmt: skip
            print("| --- | --- | --- | --- | --- | --- |")
            plain = upstream = 0.0
            for number, variant in enumerate(variants):
                folder = Path(name) / f"{scene.task}-{scene.flags}-{number}"
                found = a_task(variant, scene, folder, port)
                total = sum(found.values())
                plain = plain or total
                added = total - plain
                if variant is UPSTREAM:
                    upstream = added
                share = f"{added / upstream:.2f}" if upstream else ""
                print(f"| {variant.name} | "
                      + " | ".join(f"{found[part]:,.0f}" for part in PARTS)
                      + f" | {added:,.0f} | {share} |", flush=True)  # fmt: skip
        server.terminate()


if __name__ == "__main__":
    main()
