"""Worker CPU a task, throughput and spans kept: all workers side by side, bursts in turn.

One after the other gets a burst of tasks that carry a trace context, published
beforehand. User and system time of its processes from one of its bursts to the next,
divided by the tasks of one: spans are exported after a burst, too. The next worker's burst
follows within a second, so that a machine that is slow for a while is slow for all. Each
round goes in another order: who comes after a worker that exports for a while after its
burst pays for that, too (50 µs a task of plain Celery's, always after the same one).
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import redis
from celery import Celery
from sink import Sink
from worker import Life, environ_of

if TYPE_CHECKING:
    from pathlib import Path

    from variants import Variant

WARM_ROUNDS = 2  # not counted
LATE_SECONDS = 7  # exporters wait five seconds for more


class Scene(NamedTuple):
    """What tasks a burst is made of."""

    name: str
    task: str
    tasks: int  # in a burst
    flags: str  # of their traceparent
    spans: int  # that each is to give


NOOP = Scene("a no-op task", "noop", 600, "01", 1)
TEN = Scene("a task with ten inner spans", "ten", 200, "01", 11)
UNSAMPLED = Scene("an unsampled task", "noop", 600, "00", 0)


def publish(app: Celery, scene: Scene, tasks: int, queue: str) -> None:
    """Publish tasks, each with a trace context of its own."""
    for number in range(1, tasks + 1):
        traceparent = f"00-{number:032x}-{number:016x}-{scene.flags}"
        app.send_task(
            f"bench_app.{scene.task}", headers={"traceparent": traceparent},
            queue=queue, ignore_result=True,
        )  # fmt: skip


class Figures(NamedTuple):
    """Of a variant, medians: microseconds a task, tasks a second, a share, bytes."""

    main: float
    children: float
    exporter: float
    added: float  # main and children, over plain Celery's of the same round
    spread: float  # half of the middle half of what is added
    rate: float
    kept: float | None
    wire: float | None  # bytes a span


class Runner:
    """A worker that waits, its queue and its receiver."""

    def __init__(
        self, variant: Variant, folder: Path, port: int, database: int, children: int
    ) -> None:
        broker = f"redis://127.0.0.1:{port}/{database}"
        self.variant = variant
        self.sink = Sink()
        self._app = Celery(broker=broker)
        self._client = redis.Redis.from_url(broker)
        environ = environ_of(broker) | variant.variables(self.sink.grpc, self.sink.http)
        self.life = Life(variant.celery(), folder, environ, "-c", str(children))
        self._cpu = self.life.cpu()
        self.parts: list[tuple[float, float, float]] = []
        self.rates: list[float] = []

    def begin(self, scene: Scene) -> None:
        """Publish a burst, to be copied for each round, and forget what was before."""
        self._client.delete("pattern")
        publish(self._app, scene, scene.tasks, "pattern")
        self.sink.clear()
        self.parts, self.rates = [], []
        self._cpu = self.life.cpu()

    def burst(self, scene: Scene, *, counts: bool) -> None:
        """Hand a burst over at once, and wait until the last task is acknowledged."""
        now = self.life.cpu()
        if counts:
            self.parts.append(
                tuple(
                    (b - a) / scene.tasks * 1e6
                    for a, b in zip(self._cpu, now, strict=True)
                )  # type: ignore[arg-type]
            )
        self._cpu = now
        self._client.copy("pattern", "burst")
        start = time.monotonic()
        self._client.rename("burst", "celery")
        while self._client.llen("celery") or self._client.hlen("unacked"):
            time.sleep(0.002)
        if counts:
            self.rates.append(scene.tasks / (time.monotonic() - start))

    def stop(self) -> None:
        self.life.stop()
        self.sink.stop()


def measure(
    variants: list[Variant],
    scenes: list[Scene],
    folder: Path,
    port: int,
    *,
    rounds: int,
    children: int = 1,
) -> dict[str, dict[str, Figures]]:
    """Return figures by scene and variant; plain Celery is the first variant."""
    found: dict[str, dict[str, Figures]] = {}
    runners = [
        Runner(variant, folder / f"cpu{children}-{database}", port, database, children)
        for database, variant in enumerate(variants)
    ]
    for scene in scenes:
        now = [each for each in runners if each.variant.makes_spans or scene is not TEN]
        if scene is UNSAMPLED:
            now = [each for each in now if each.variant.makes_spans]
        for runner in now:
            runner.begin(scene)
        for number in range(rounds + WARM_ROUNDS + 1):
            print(f"{scene.name}, {children} children: round {number}", file=sys.stderr)
            for runner in random.Random(number).sample(now, len(now)):
                runner.burst(scene, counts=number > WARM_ROUNDS)
        time.sleep(LATE_SECONDS)
        bursts = rounds + WARM_ROUNDS + 1
        found[scene.name] = {
            each.variant.name: _figures(each, now[0], scene, bursts) for each in now
        }
    for runner in runners:
        runner.stop()
    return found


def _figures(runner: Runner, plain: Runner, scene: Scene, bursts: int) -> Figures:
    main, children, exporter = map(statistics.median, zip(*runner.parts, strict=True))
    added = [
        sum(ours[:2]) - sum(theirs[:2])
        for ours, theirs in zip(runner.parts, plain.parts, strict=True)
    ]
    low, middle, high = statistics.quantiles(added, n=4)
    expected = scene.tasks * scene.spans * bursts
    spans = runner.sink.spans()
    return Figures(
        *(main, children, exporter, middle, (high - low) / 2),
        rate=statistics.median(runner.rates),
        kept=spans / expected if expected and runner.variant.counts else None,
        wire=runner.sink.bytes() / spans if spans else None,
    )
