"""Start the shop for real, place one order, show its trace: make example.

A Redis server on a free port, a web process, a worker and beat, each under otel-celery,
and a receiver in this process in the place of a collector.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.receiver.spans import ReceivedSpan
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.waterfall import arrange

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
WAIT_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def is_complete(spans: list[ReceivedSpan]) -> bool:
    return any(span.kind == "SERVER" for span in spans) and any(
        span.name == "INSERT" or "INSERT " in span.name for span in spans
    )


def main() -> None:
    redis_port, web_port = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        Receiver() as receiver,
        ExitStack() as stack,
    ):
        environ = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "SHOP_BROKER": f"redis://127.0.0.1:{redis_port}/0",
            "SHOP_BACKEND": f"redis://127.0.0.1:{redis_port}/0",
            "SHOP_DATABASE": f"sqlite:///{folder}/shop.db",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_CELERY_SERVICE_NAME": "{name}-{role}",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "sqlite3",  # SQLAlchemy tells
        }

        def start(*command: object) -> None:
            process = subprocess.Popen(list(map(str, command)), env=environ, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        otel_celery = BIN / "otel-celery"
        start(
            "redis-server", "--port", redis_port, "--save", "", "--loglevel", "warning"
        )
        wait_for_port(redis_port)
        start(otel_celery, "exec", "--role", "web", "--",
              BIN / "uvicorn", "shop.web:app", "--port", web_port, "--log-level", "warning")  # fmt: skip
        start(otel_celery, "-A", "shop.tasks", "worker", "-c", "2", "-l", "WARNING")
        start(otel_celery, "-A", "shop.tasks", "beat", "-l", "WARNING")
        wait_for_port(web_port)
        request = urllib.request.Request(
            f"http://127.0.0.1:{web_port}/orders/book", b"", {"X-Tenant": "acme"}
        )
        with urllib.request.urlopen(request) as answer:
            print(f"POST /orders/book: {answer.read().decode()}")
        print(
            "waiting for the web process, which sends its spans every 5 s", flush=True
        )
        spans = receiver.wait_for(is_complete, WAIT_SECONDS)
        trace_id = next(span.trace_id for span in spans if span.kind == "SERVER")
        found = [span for span in receiver.spans if span.trace_id == trace_id]
        Screen().show(arrange(found))


if __name__ == "__main__":
    main()
