"""Worker CPU a no-op task beside plain Celery and opentelemetry-instrument, in turn.

    make bench-cpu        # or: python bench/cpu.py [ROUNDS [TASKS]]

Needs redis-server. All workers live side by side, one pool child each; one after the other
gets a burst of no-op tasks that carry a trace context, published beforehand. User and system
time of its processes from one of its bursts to the next, divided by the tasks of one: spans
are exported after a burst, too. The next worker's burst follows within a second, so that a
machine that is slow for a while is slow for all of them. Read the ratios: what is added to plain Celery's of the same round, beside what
opentelemetry-instrument adds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import redis
from celery import Celery
from lifecycle import APP, BIN, Life, environ_of, free_port, start_redis

from otel_celery_launcher.receiver import Receiver

# Everybody else in an environment of its own.
OTHERS = BIN.parent.parent / ".venv-bench"
UPSTREAM = OTHERS / "opentelemetry-instrument" / "bin"
PACKAGES = (
    "celery[redis]",
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-instrumentation-celery",
)

VARIANTS: dict[str, tuple[list[Path], dict[str, str]]] = {
    "celery": ([BIN / "celery"], {}),
    "process": ([BIN / "otel-celery"], {"OTEL_CELERY_EXPORT": "process"}),
    "inline": ([BIN / "otel-celery"], {"OTEL_CELERY_EXPORT": "inline"}),
    "opentelemetry-instrument": (
        [UPSTREAM / "opentelemetry-instrument", UPSTREAM / "celery"],
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
    ),
}

WARM_ROUNDS = 2  # not counted


def install_others() -> None:
    if not (UPSTREAM / "opentelemetry-instrument").exists():
        subprocess.run([sys.executable, "-m", "venv", UPSTREAM.parent], check=True)
        subprocess.run(
            [UPSTREAM / "pip", "--disable-pip-version-check", "install", "--quiet",
             *PACKAGES],
            check=True,
        )  # fmt: skip


def fill(broker: str, count: int, queue: str = "celery") -> None:
    """Publish tasks, each in a trace of its own."""
    app = Celery(broker=broker)
    for number in range(1, count + 1):
        headers = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
        app.send_task(
            "bench_app.noop", headers=headers, queue=queue, ignore_result=True
        )


class Figures(NamedTuple):
    """Microseconds a task."""

    main: float
    children: float
    exporter: float

    @property
    def worker(self) -> float:
        return self.main + self.children


class Bench:
    """A worker that waits, and its bursts."""

    def __init__(
        self,
        variant: str,
        folder: Path,
        environ: dict[str, str],
        rounds: int,
        count: int,
    ) -> None:
        command, more = VARIANTS[variant]
        self._count = count
        self._client = redis.Redis.from_url(environ["BENCH_BROKER"])
        for number in range(rounds):
            fill(environ["BENCH_BROKER"], count, f"burst{number}")
        folder.mkdir()
        (folder / "bench_app.py").write_text(APP)
        self.life = Life(command, folder, environ | more, "-c", "1")
        self._cpu = self.life.cpu()

    def burst(self, number: int) -> None:
        """Hand a burst over at once, and wait until the last task is acknowledged."""
        self._client.rename(f"burst{number}", "celery")
        while self._client.llen("celery") or self._client.hlen("unacked"):
            time.sleep(0.005)

    def since_last(self) -> Figures:
        """Return what a burst has cost since the last call: exports come later."""
        before, self._cpu = self._cpu, self.life.cpu()
        parts = (b - a for a, b in zip(before, self._cpu, strict=True))
        return Figures(*(part / self._count * 1e6 for part in parts))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    install_others()
    found: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
    kept: dict[str, float] = {}
    total = rounds + WARM_ROUNDS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        stack.callback(start_redis(folder, port).terminate)
        receivers, benches = {}, {}
        for database, variant in enumerate(VARIANTS):
            receivers[variant] = stack.enter_context(Receiver())
            environ = environ_of(receivers[variant], port) | {
                "BENCH_BROKER": f"redis://127.0.0.1:{port}/{database}"
            }
            place = folder / variant
            benches[variant] = Bench(variant, place, environ, total, count)
        for number in range(total):
            for variant, bench in benches.items():
                figures = bench.since_last()
                bench.burst(number)
                if number > WARM_ROUNDS:  # what the round before has cost
                    found[variant].append(figures)
                shown = " ".join(f"{each:.0f}" for each in figures)
                print(f"round {number}: {variant} {shown}", file=sys.stderr)
        for variant, bench in benches.items():
            bench.life.stop()
            kept[variant] = len(receivers[variant].spans) / (total * count)
    print_table(found, kept)


def print_table(found: dict[str, list[Figures]], kept: dict[str, float]) -> None:
    """Medians, and of what is added in each round."""
    print(
        "| | main, µs | child, µs | exporter, µs | added, µs | of upstream's | spans kept |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    plain = [each.worker for each in found["celery"]]

    def added(variant: str) -> float:
        workers = [each.worker for each in found[variant]]
        return statistics.median(a - b for a, b in zip(workers, plain, strict=True))

    for variant, figures in found.items():
        medians = [statistics.median(column) for column in zip(*figures, strict=True)]
        shown = " | ".join(f"{each:.0f}" for each in [*medians, added(variant)])
        ratio = added(variant) / added("opentelemetry-instrument")
        print(f"| {variant} | {shown} | {ratio:.2f} | {kept[variant]:.1%} |")


if __name__ == "__main__":
    main()
