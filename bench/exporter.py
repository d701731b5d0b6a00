"""How fast the exporter process is: children make spans as fast as they can."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import Celery
from sink import Sink
from worker import Life, environ_of

if TYPE_CHECKING:
    from pathlib import Path

    from variants import Variant

SPANS = 100_000  # a task
TASKS = 4


def measure(variant: Variant, folder: Path, port: int) -> dict[str, float]:
    """Return spans made, spans received, CPU microseconds a span, MB."""
    broker = f"redis://127.0.0.1:{port}/62"
    app, sink = Celery(broker=broker, backend=broker), Sink()
    environ = environ_of(broker) | variant.variables(sink.grpc, sink.http)
    life = Life(variant.celery(), folder, environ, "-c", "1")
    before = life.cpu()[2]
    start = time.monotonic()
    results = [app.send_task("bench_app.flood", (SPANS,)) for _ in range(TASKS)]
    for result in results:
        result.get(timeout=300)
    seconds = time.monotonic() - start
    made = TASKS * (SPANS + 1)
    end = time.monotonic() + 30
    while sink.spans() < made and time.monotonic() < end:
        time.sleep(0.5)
    micros = (life.cpu()[2] - before) / made * 1e6
    memory = life.memory()[1]
    life.stop()
    found = {
        "made": float(made), "received": float(sink.spans()), "made a second": made / seconds,
        "µs a span": micros, "spans a second of a core": 1e6 / micros, "MB": memory,
    }  # fmt: skip
    sink.stop()
    return found
