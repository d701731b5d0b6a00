"""What arrives when something ends: how many run spans of how many tasks.

Each scene in a life of its own, with a receiver of its own: tasks run, then something ends,
then there is time for whatever still comes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from celery import Celery
from lifecycle import send
from sink import Sink
from worker import Life, environ_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from variants import Variant

# More than the five seconds that a BatchSpanProcessor keeps a span by default.
WAIT_SECONDS = 8.0


@dataclass(frozen=True)
class Scene:
    """A way to end.

    Attributes:
        name: In the table.
        tasks: How many run, each with its result fetched before anything ends.
        end: Ends something; returns how many tasks have begun beside.
        options: Of the worker.
        needs_exporter: Whether the scene is of an exporter process alone.
    """

    name: str
    tasks: int
    end: Callable[[Life, Celery], int]
    options: tuple[str, ...] = ("-c", "2")
    needs_exporter: bool = False


def _stop(life: Life, _: Celery) -> int:
    life.stop()
    return 0


def _kill_child(_: Life, app: Celery) -> int:
    """Let the kernel kill a pool child in the middle of its task, as it does without memory."""
    result = app.send_task("bench_app.dies")
    with contextlib.suppress(Exception):  # WorkerLostError
        result.get(timeout=60)
    return 1


def _kill_worker(life: Life, _: Celery) -> int:
    below = psutil.Process(life.process.pid).children(recursive=True)
    life.process.send_signal(signal.SIGKILL)
    life.process.wait()
    for process in below:  # those of plain Celery's end by themselves, some late
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() != "otel-exporter":
                process.kill()
    return 0


def _kill_exporter(life: Life, app: Celery) -> int:
    for process in psutil.Process(life.process.pid).children(recursive=True):
        if process.name() == "otel-exporter":
            os.kill(process.pid, signal.SIGKILL)
    send(app, 100)
    return 100


SCENES = (
    Scene("SIGTERM right after 200 tasks", 200, _stop),
    Scene(
        "`--max-tasks-per-child 1`, 40 tasks, SIGTERM",
        40,
        _stop,
        ("-c", "2", "--max-tasks-per-child", "1"),
    ),
    Scene("SIGKILL of a pool child in its task, after 20 others", 20, _kill_child, ("-c", "1")),
    Scene("SIGKILL of the worker right after 200 tasks", 200, _kill_worker),
    Scene(
        "SIGKILL of the exporter process after 100 tasks, 100 more",
        100,
        _kill_exporter,
        needs_exporter=True,
    ),
)  # fmt: skip


def _count(variant: Variant, scene: Scene, folder: Path, broker: str) -> str:
    """Return how many run spans have come, and of how many."""
    sink = Sink()
    app = Celery(broker=broker, backend=broker)
    environ = environ_of(broker) | variant.variables(sink.grpc, sink.http)
    life = Life(variant.celery(), folder, environ, *scene.options)
    send(app, scene.tasks)
    if scene.needs_exporter:
        time.sleep(WAIT_SECONDS)  # what it has is sent: what it has read dies with it
    expected = scene.tasks + scene.end(life, app)
    end = time.monotonic() + WAIT_SECONDS
    while sink.spans() < expected and time.monotonic() < end:
        time.sleep(0.05)
    arrived = sink.spans()
    if life.process.poll() is None:
        life.stop()
    sink.stop()
    app.control.purge()
    return f"{arrived} of {expected}"


def measure(
    variants: list[Variant], folder: Path, port: int
) -> dict[str, dict[str, str]]:
    """Return what has arrived, by scene and variant."""
    found: dict[str, dict[str, str]] = {}
    for scene in SCENES:
        found[scene.name] = {}
        for number, variant in enumerate(variants):
            has_exporter = variant.name == "otel-celery"
            if not variant.counts or (scene.needs_exporter and not has_exporter):
                continue
            print(f"losses: {scene.name}: {variant.name}", file=sys.stderr)
            broker = f"redis://127.0.0.1:{port}/{number}"
            text = _count(variant, scene, folder / f"losses{number}", broker)
            found[scene.name][variant.name] = text
    return found
