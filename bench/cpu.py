"""Worker CPU a no-op task beside plain Celery and opentelemetry-instrument, in turn.

    make bench-cpu        # or: python bench/cpu.py [ROUNDS [TASKS]]

Needs redis-server. A queue of no-op tasks that carry a trace context is drained by one
pool child; user and system time of the worker's processes over the middle 70 % of it,
divided by its tasks. Read the ratios: what is added to plain Celery's in the same round,
beside what opentelemetry-instrument adds. One child, since a machine of two cores that
has more to run than cores measures its caches.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import redis
from celery import Celery
from lifecycle import APP, BIN, Life, free_port, start_redis

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

# The part of the queue that is measured, by what is left in it.
FROM, TO = 0.85, 0.15


def install_others() -> None:
    if not (UPSTREAM / "opentelemetry-instrument").exists():
        subprocess.run([sys.executable, "-m", "venv", UPSTREAM.parent], check=True)
        subprocess.run(
            [UPSTREAM / "pip", "--disable-pip-version-check", "install", "--quiet",
             *PACKAGES],
            check=True,
        )  # fmt: skip


def fill(broker: str, count: int) -> None:
    app = Celery(broker=broker)
    for number in range(1, count + 1):
        headers = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
        app.send_task("bench_app.noop", headers=headers, ignore_result=True)


class Figures(NamedTuple):
    """Microseconds a task."""

    main: float
    children: float
    exporter: float

    @property
    def worker(self) -> float:
        return self.main + self.children


def measure(variant: str, folder: Path, environ: dict[str, str], count: int) -> Figures:
    command, more = VARIANTS[variant]
    client = redis.Redis.from_url(environ["BENCH_BROKER"])
    fill(environ["BENCH_BROKER"], count)
    life = Life(command, folder, environ | more, "-c", "1")
    looks = []
    for part in (FROM, TO):
        while client.llen("celery") > part * count:
            time.sleep(0.005)
        looks.append((client.llen("celery"), life.cpu()))
    while client.llen("celery"):
        time.sleep(0.05)
    life.stop()
    (first, before), (last, after) = looks
    tasks = first - last
    return Figures(*((b - a) / tasks * 1e6 for a, b in zip(before, after, strict=True)))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 6000
    install_others()
    found: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
    kept: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        folder, port = Path(name), free_port()
        (folder / "bench_app.py").write_text(APP)
        server = start_redis(folder, port)
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "ignore",
            "BENCH_BROKER": f"redis://127.0.0.1:{port}/0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_SERVICE_NAME": "bench-worker",
            **{k: v for k, v in os.environ.items() if k.startswith("OTEL_")},
        }
        for number in range(rounds):
            for variant in VARIANTS:
                figures = measure(variant, folder, environ, count)
                found[variant].append(figures)
                kept[variant].append(len(receiver.spans) / count)
                receiver.clear()
                shown = " ".join(f"{each:.0f}" for each in figures)
                print(f"round {number + 1}: {variant} {shown}", file=sys.stderr)
        server.terminate()
    print_table(found, kept)


def print_table(found: dict[str, list[Figures]], kept: dict[str, list[float]]) -> None:
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
        share = statistics.median(kept[variant])
        print(f"| {variant} | {shown} | {ratio:.2f} | {share:.1%} |")


if __name__ == "__main__":
    main()
