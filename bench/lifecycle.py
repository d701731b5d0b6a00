"""Start, stop, a recycled child, memory and connections, in turn."""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import TYPE_CHECKING

from celery import Celery
from cpu import LATE_SECONDS
from sink import Sink
from worker import Life, environ_of

if TYPE_CHECKING:
    from pathlib import Path

    from variants import Variant

CHILDREN = (1, 2, 4, 8, 16, 32)
RECYCLED = 8  # in each of the first rounds; some take five seconds
RECYCLING_ROUNDS = 4

# Seconds. Celery's main process sees a child's end at once, or, where it looks a moment too
# early, with its next look after the pool, five seconds later.
LATE = 2.0
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"


def send(app: Celery, count: int) -> None:
    """Run so many tasks, and wait for them."""
    headers = {"traceparent": TRACEPARENT}
    results = [app.send_task("bench_app.noop", headers=headers) for _ in range(count)]
    for result in results:
        result.get(timeout=120)


class Lives:
    """Lives of one variant's worker.

    Attributes:
        ready, stop, recycled: Seconds; of the last the first quarter is told, and how many
            were late.
        memory: MB by children: of the worker, of its exporter process.
        connections: Of a worker with eight children that has exported.
    """

    def __init__(
        self, variant: Variant, folder: Path, port: int, database: int
    ) -> None:
        broker = f"redis://127.0.0.1:{port}/{database}"
        self._variant = variant
        self._folder = folder
        self._app = Celery(broker=broker, backend=broker)
        self._sink = Sink()
        self._environ = environ_of(broker) | variant.variables(
            self._sink.grpc, self._sink.http
        )
        self.ready: list[float] = []
        self.stop: list[float] = []
        self.recycled: list[float] = []
        self.memory: dict[int, tuple[float, float]] = {}
        self.connections = 0

    def _life(self, *options: str) -> Life:
        command = self._variant.celery()
        return Life(command, self._folder, self._environ, *options)

    def start_and_stop(self) -> None:
        life = self._life("-c", "2")
        send(self._app, 20)
        self.ready.append(life.ready)
        self.stop.append(life.stop())

    def recycle(self) -> None:
        """Run one task after the other, each in a child of its own."""
        life = self._life("-c", "1", "--max-tasks-per-child", "1")
        send(self._app, 2)
        for _ in range(RECYCLED):
            start = time.monotonic()
            send(self._app, 1)
            self.recycled.append(time.monotonic() - start)
        life.stop()

    def weigh(self, children: int) -> None:
        life = self._life("-c", str(children))
        send(self._app, 50 * children)
        if children == 8:
            time.sleep(LATE_SECONDS)
            ports = (self._sink.grpc, self._sink.http)
            self.connections = life.connections(ports)
        self.memory[children] = life.memory()
        life.stop()

    def figures(self) -> dict[str, object]:
        return {
            "ready": statistics.median(self.ready),
            "stop": statistics.median(self.stop),
            "recycled": statistics.quantiles(self.recycled, n=4)[0],
            "recycled late": sum(each > LATE for each in self.recycled)
            / len(self.recycled),
            "connections": self.connections,
            "memory": self.memory,
        }


def measure(
    variants: list[Variant], folder: Path, port: int, *, rounds: int
) -> dict[str, dict[str, object]]:
    """Return figures by variant."""
    lives = [
        Lives(variant, folder / f"life{database}", port, 32 + database)
        for database, variant in enumerate(variants)
    ]
    for number in range(rounds):
        print(f"start, stop, recycled child: round {number}", file=sys.stderr)
        in_turn = random.Random(number).sample(lives, len(lives))
        for each in in_turn:
            each.start_and_stop()
        for each in in_turn if number < RECYCLING_ROUNDS else ():
            each.recycle()
    for children in CHILDREN:
        print(f"memory: {children} children", file=sys.stderr)
        for each in lives:
            each.weigh(children)
    return {
        variant.name: each.figures()
        for variant, each in zip(variants, lives, strict=True)
    }
