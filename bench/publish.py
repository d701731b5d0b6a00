"""What a publish costs in the producer: a web request's side, in turn."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from sink import Sink
from worker import APP, environ_of

if TYPE_CHECKING:
    from pathlib import Path

    from variants import Variant

PUBLISHES = 2000

# CPU of all threads, of publishes alone: what is exported meanwhile counts.
PRODUCER = f"""
import json, time
from bench_app import noop
for _ in range(50):
    noop.delay()
start = time.process_time()
for _ in range({PUBLISHES}):
    noop.delay()
print(json.dumps((time.process_time() - start) / {PUBLISHES} * 1e6))
"""


def measure(
    variants: list[Variant], folder: Path, port: int, *, rounds: int
) -> dict[str, float]:
    """Return the microseconds of a publish by variant, medians."""
    found: dict[str, list[float]] = {each.name: [] for each in variants}
    folder.mkdir()
    (folder / "bench_app.py").write_text(APP)
    (folder / "producer.py").write_text(PRODUCER)
    sink = Sink()
    environ = environ_of(f"redis://127.0.0.1:{port}/63")
    for number in range(rounds):
        print(f"publish: round {number}", file=sys.stderr)
        for variant in random.Random(number).sample(variants, len(variants)):
            done = subprocess.run(
                [*variant.python(), "producer.py"], cwd=folder, check=True, text=True,
                stdout=subprocess.PIPE,
                env=environ | variant.variables(sink.grpc, sink.http),
            )  # fmt: skip
            found[variant.name].append(json.loads(done.stdout.splitlines()[-1]))
    sink.stop()
    return {name: statistics.median(each) for name, each in found.items()}
