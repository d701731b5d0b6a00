"""Bytes on the wire a span: make bench-wire

One worker, tasks that carry a trace context, a receiver that keeps the very bytes of each
OTLP/gRPC request: the run of a no-op task, without and with gzip.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cpu import fill
from lifecycle import APP, BIN, Life, environ_of, free_port, start_redis

from otel_celery_launcher.receiver import Receiver
from otel_celery_launcher.receiving.grpc_server import GrpcServer
from otel_celery_launcher.receiving.spans import read_request

TASKS = 2000


def measure(folder: Path, broker_port: int) -> tuple[float, float]:
    """Return bytes a span, and spans a request."""
    requests: list[bytes] = []
    server = GrpcServer(lambda request, _: requests.append(request))
    environ = environ_of(Receiver(port=server.port), broker_port)
    fill(environ["BENCH_BROKER"], TASKS)
    life = Life([BIN / "otel-celery"], folder, environ, "-c", "2")
    spans = 0
    while spans < TASKS:
        spans = sum(len(read_request(each)) for each in list(requests))
    life.stop()
    server.stop()
    return sum(map(len, requests)) / spans, spans / len(requests)


def main() -> None:
    """Print one line."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "bench_app.py").write_text(APP)
        server = start_redis(folder, port)
        size, count = measure(folder, port)
        server.terminate()
    print(f"{size:.0f} bytes a span, {count:.0f} spans a request")


if __name__ == "__main__":
    main()
