"""What metrics cost: python bench/metrics.py [ROUNDS]: make bench-metrics

A measurement of an application beside the SDK's, a run of a no-op task with metrics and
without, and one export of 32 children with 200 series each. CPU time, the least of the
rounds, which take turns; read the ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CALLS = 20_000
RUNS = 2_000
ATTRIBUTES = {
    2: {"customer": "acme", "kind": "book"},
    5: {"a": "one", "b": "two", "c": "three", "d": "four", "e": "five"},
}


def cpu(act: Callable[[], object], times: int) -> float:
    """Return microseconds of CPU a call."""
    began = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - began) / times * 1e6


def ours() -> Any:
    from otel_celery_launcher.metrics.instruments import Exemplars
    from otel_celery_launcher.metrics.observed import Observers
    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.provider import PageMeterProvider
    from otel_celery_launcher.metrics.writer import Writer

    writer = Writer(MetricPage(), has_exemplars=True)
    provider = PageMeterProvider(
        writer, Observers(writer, 60), Exemplars("trace_based")
    )
    return provider.get_meter("bench")


def theirs() -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    return MeterProvider([InMemoryMetricReader()]).get_meter("bench")


def measurements(rounds: int) -> list[tuple[str, float, float]]:
    """Return what, and microseconds of ours and of the SDK's."""
    meters = {"ours": ours(), "sdk": theirs()}
    acts: dict[tuple[str, str], Callable[[], object]] = {}
    for name, meter in meters.items():
        counter, histogram = meter.create_counter("c"), meter.create_histogram("h")
        for count, attributes in ATTRIBUTES.items():
            acts[f"add, {count} attributes", name] = (
                lambda c=counter, a=attributes: c.add(1, a)  # type: ignore[misc]
            )
            acts[f"record, {count} attributes", name] = (
                lambda h=histogram, a=attributes: h.record(0.3, a)  # type: ignore[misc]
            )
    found = {key: cpu(act, CALLS) for key, act in acts.items()}
    for _ in range(rounds):
        for key, act in acts.items():
            found[key] = min(found[key], cpu(act, CALLS))
    names = dict.fromkeys(what for what, _ in acts)
    return [(what, found[what, "ours"], found[what, "sdk"]) for what in names]


def run_in_process() -> None:
    """Print microseconds of CPU a run of a no-op task (a process of its own)."""
    from celery import Celery
    from celery.app.trace import build_tracer

    from tests import hot_path

    empty = hot_path.set_up("otel-celery")
    app = Celery("hot", broker="memory://", set_as_current=True)

    @app.task(name="hot.noop", ignore_result=True)
    def noop() -> None:
        pass

    app.finalize()
    tracer = build_tracer("hot.noop", noop, app=app, hostname="celery@host")
    spent = 0.0
    for block in range(RUNS // 50):
        requests = [hot_path.request(block * 50 + each, "01") for each in range(50)]
        began = time.process_time()
        for each in requests:
            tracer(each["id"], [], {}, each)
        spent += time.process_time() - began
        empty()
    print(json.dumps(spent / RUNS * 1e6))


def a_run(rounds: int) -> tuple[float, float]:
    """Return microseconds of a run with metrics, and without."""
    found: dict[str, list[float]] = {"otlp": [], "none": []}
    for _ in range(rounds):
        for exporter, times in found.items():
            done = subprocess.run(
                [sys.executable, __file__, "--run"],
                env={**os.environ, "OTEL_METRICS_EXPORTER": exporter},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            times.append(float(done.stdout))
    return min(found["otlp"]), min(found["none"])


def an_export(children: int = 32, series: int = 200) -> tuple[float, float, float]:
    """Return milliseconds to read the page, to make points, and to encode them."""
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.metrics.layout import (
        DEFAULT_BOUNDARIES,
        Description,
        Kind,
    )
    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.points import PointMaker
    from otel_celery_launcher.metrics.reader import PageReader
    from otel_celery_launcher.metrics.writer import Writer

    page = MetricPage()
    histogram = Description(
        Kind.HISTOGRAM, "h", "s", "", ("", "", "", ()), DEFAULT_BOUNDARIES
    )
    writer = Writer(page, has_exemplars=True)
    read, write = os.pipe()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            for number in range(series):
                cells, _ = writer.cells(histogram, (("n", str(number)),))
                page.values[cells + 7] += 1
            os.read(read, 1)
            os._exit(0)
        pids.append(pid)
    time.sleep(1)
    reader = PageReader(page, 60)
    reader.read_bounded(time.time_ns())  # what is known is cached from now on
    began = time.process_time()
    totals = reader.read_bounded(time.time_ns())
    between = time.process_time()
    maker = PointMaker(Resource({}), 2, 1)
    requests = [maker.data(chunks) for chunks in maker.requests(totals)]
    made = time.process_time()
    for data in requests:
        encode_metrics(data).SerializeToString()
    ended = time.process_time()
    os.close(write)
    os.close(read)
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return (between - began) * 1e3, (made - between) * 1e3, (ended - made) * 1e3


def main() -> None:
    if "--run" in sys.argv:
        run_in_process()
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print("| what | ours | SDK | ratio |")
    print("| --- | --- | --- | --- |")
    for what, mine, sdk in measurements(rounds):
        print(f"| {what} | {mine:.2f} µs | {sdk:.2f} µs | {mine / sdk:.2f} |")
    with_metrics, without = a_run(rounds)
    print(
        f"\nA run: {with_metrics:.1f} µs with metrics, {without:.1f} µs without:"
        f" {with_metrics - without:+.1f} µs."
    )
    read, made, encoded = an_export()
    print(
        f"An export of 32 children with 200 histograms each: {read:.1f} ms to read,"
        f" {made + encoded:.1f} ms to encode."
    )


if __name__ == "__main__":
    main()
