"""What the collectors of deploy/collector cost: make bench-collectors; three minutes.

A real worker's requests are sent again and again, each time with traces that are new, to
each collector alone: at a fixed rate, and as fast as it takes them. What it sends goes to
a server that only counts. CPU is that of the collector's process; read it as spans a second
that one core takes. The sampler holds what it has for its whole window (30 s).
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import grpc

from otel_celery_launcher.receiver.grpc_server import METHOD, GrpcServer
from otel_celery_launcher.receiver.spans import read_request
from tests.collector.engines import Engine, Engines
from tests.support.harness import Launcher, Producer, wait_until
from tests.support.servers import base_environ, run_redis

CHAINS = 1000  # of three tasks each, published in a task
SPANS = 7 * CHAINS
TRACE_ID = re.compile(rb"\x0a\x10(.{16})\x12\x08", re.DOTALL)  # field 1, then field 2

WARM_SECONDS = 3
WINDOW_SECONDS = {"fixed": 30, "full": 3}
CALLS = 4  # at a time
FIXED_RATE = 5000  # spans a second


class Request(NamedTuple):
    """A request of a worker, and where its trace ids are."""

    body: bytearray
    places: list[tuple[int, int]]  # of an id, and the number of its trace
    traces: int
    spans: int

    def anew(self) -> bytes:
        """Return it with traces that nobody has seen."""
        fresh = secrets.token_bytes(16 * self.traces)
        for place, number in self.places:
            self.body[place : place + 16] = fresh[16 * number : 16 * number + 16]
        return bytes(self.body)


def capture(folder: Path) -> list[Request]:
    """Return what a worker sends for tasks that publish tasks."""
    requests: list[Request] = []
    server = GrpcServer(lambda body, _: requests.append(_request(body)))
    with run_redis(folder) as url:
        environ = base_environ(folder) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.port}",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_METRICS_EXPORTER": "none",
            "SHOP_BROKER": f"{url}/0",
            "SHOP_BACKEND": f"{url}/0",
        }
        with Launcher(folder, environ) as launcher:
            launcher.worker(app="traces")
            Producer(f"{url}/0").send_many("traces.canvas", CHAINS, "chain")
            wait_until(
                lambda: sum(each.spans for each in requests) == SPANS, 60, "all came"
            )
    server.stop()
    return requests


def _request(body: bytes) -> Request:
    numbers: dict[bytes, int] = {}
    places = [
        (found.start(1), numbers.setdefault(found[1], len(numbers)))
        for found in TRACE_ID.finditer(body)
    ]
    spans = len(read_request(body))
    assert len(places) == spans, "each span has one trace id"
    return Request(bytearray(body), places, len(numbers), spans)


class Figures(NamedTuple):
    """Of one collector under one load."""

    rate: float  # spans a second
    cpu: float  # seconds a span
    peak: int  # resident bytes

    def row(self, name: str, load: str) -> str:
        return (
            f"| {name} | {load} | {self.rate:,.0f} | {self.cpu * 1e6:.1f} µs"
            f" | {1 / self.cpu:,.0f} | {self.peak / 1e6:.0f} MB |"
        )


def load(
    engine: Engine,
    requests: list[Request],
    seconds: float,
    rate: float | None,
    warm: float,
) -> Figures:
    """Send for some seconds, at a rate or as fast as it goes, once it is warm."""
    with grpc.insecure_channel(engine.address) as channel:
        export = channel.unary_unary(METHOD)
        send(export, requests, warm, rate, engine)
        before, began = engine.usage()[0], time.monotonic()
        sent, peak = send(export, requests, seconds, rate, engine)
    took = time.monotonic() - began
    return Figures(sent / took, (engine.usage()[0] - before) / sent, peak)


def send(
    export: grpc.UnaryUnaryMultiCallable,
    requests: list[Request],
    seconds: float,
    rate: float | None,
    engine: Engine,
) -> tuple[int, int]:
    """Send, a few calls at a time; return the spans and the highest resident bytes."""
    free = threading.BoundedSemaphore(CALLS)
    began = time.monotonic()
    sent = peak = 0
    while time.monotonic() < began + seconds:
        for request in requests:
            free.acquire()
            call = export.future(request.anew(), timeout=30, wait_for_ready=True)
            call.add_done_callback(lambda _: free.release())
            sent += request.spans
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        peak = max(peak, engine.usage()[1])
    for _ in range(CALLS):
        free.acquire()
    return sent, peak


def main() -> None:
    """Print a table of all three collectors."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = capture(folder)
        size = sum(len(each.body) for each in requests)
        spans = sum(each.spans for each in requests)
        print(f"{spans} spans of a worker in {len(requests)} requests:"
              f" {size / spans:.0f} bytes a span\n")  # fmt: skip
        print("| collector | load | spans a second | CPU a span | a core | memory |")
        print("| --- | --- | --- | --- | --- | --- |")
        counted = GrpcServer(lambda *_: None, take_metrics=lambda *_: None)
        sink = f"127.0.0.1:{counted.port}"
        for kind in ("agent", "gateway", "sampler"):
            for text, rate in (("fixed", FIXED_RATE), ("full", None)):
                warm = WARM_SECONDS
                with Engines(Path(tempfile.mkdtemp(dir=folder))) as engines:
                    if kind == "agent":
                        engine = engines.collector("agent", OTEL_GATEWAY_ENDPOINT=sink)
                    elif kind == "gateway":
                        engine = engines.gateway([sink])
                    else:
                        window = WINDOW_SECONDS[text]
                        warm += window
                        engine = engines.collector(
                            "sampler",
                            {"processors": {"tail_sampling": {
                                "decision_wait": f"{window}s", "num_traces": 500_000,
                            }}},
                            TEMPO_ENDPOINT=sink,
                            JAEGER_ENDPOINT=sink,
                        )  # fmt: skip
                    figures = load(engine, requests, seconds, rate, warm)
                    print(figures.row(kind, text), flush=True)
        counted.stop()


if __name__ == "__main__":
    os.environ.setdefault(
        "TEST_COLLECTOR", str(Path(__file__).parent.parent / ".venv-go/collector")
    )
    main()
