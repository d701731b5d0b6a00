"""What a log record costs: python bench/logs.py [ROUNDS]: make bench-logs

A loop of log lines inside a span, in processes that take turns: plain, with the SDK's
LoggingHandler and BatchLogRecordProcessor, and as a worker with otel-celery. All records
go to a receiver by OTLP/gRPC, and all must arrive. CPU time a record without the plain
one's, of the process and of its exporter process; the least of the rounds. Read the ratios.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil
from opentelemetry.sdk.trace import TracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = 30_000
GROUP, PAUSE_SECONDS = 50, 0.004  # no more lines a second than a busy worker has

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Way(NamedTuple):
    """What sends all that was logged so far, and what ends it."""

    flush: Callable[[], object]
    end: Callable[[], object]


def theirs() -> Way:
    """Add the SDK's handler."""
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider()
    provider.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(), max_queue_size=RECORDS)
    )
    logging.getLogger().addHandler(LoggingHandler(logger_provider=provider))
    return Way(provider.force_flush, provider.shutdown)


def ours() -> Way:
    """Take records as a worker does."""
    from otel_celery_launcher.command_line import read_command_line
    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.telemetry import setup

    os.environ |= {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none"}
    command_line = read_command_line(["-A", "bench", "worker"], os.environ)
    started = setup.start(Settings.from_environ(os.environ, command_line))
    started.route.main_started(forks=True)
    return Way(lambda: started.route.flush(30), started.close_main)


def plain() -> Way:
    return Way(lambda: None, lambda: None)


WAYS = {"plain": plain, "upstream": theirs, "otel-celery": ours}


def of_children() -> float:
    """Return seconds of CPU of the exporter process, whether it has ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [each.cpu_times() for each in psutil.Process().children()]
    return (
        ended.ru_utime
        + ended.ru_stime
        + sum(each.user + each.system for each in living)
    )


def log_in_process(way: str) -> None:
    """Print microseconds a record, of this process and of its children."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115
    flush, end = WAYS[way]()
    logger = logging.getLogger("bench.orders")
    tracer = TracerProvider().get_tracer("bench")
    with tracer.start_as_current_span("run"):
        logger.info("the first one")
        flush()  # what sends it has imported what it needs
        before = of_children()
        began = time.process_time()
        for number in range(RECORDS):
            logger.info("order %d was booked by %s", number, "acme")
            if number % GROUP == 0:
                time.sleep(PAUSE_SECONDS)
    end()
    own = time.process_time() - began
    children = of_children() - before
    print(json.dumps([each / RECORDS * 1e6 for each in (own, children)]))


def main() -> None:
    if "--log" in sys.argv:
        log_in_process(sys.argv[-1])
        return
    from otel_celery_launcher.receiver.memory import Receiver

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            with Receiver() as receiver:
                done = subprocess.run(
                    [sys.executable, __file__, "--log", way],
                    env={**os.environ, ENDPOINT: receiver.endpoint},
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                expected = 0 if way == "plain" else RECORDS + 1
                assert len(receiver.logs) == expected, (way, len(receiver.logs))
            own, children = json.loads(done.stdout.splitlines()[-1])
            found[way].append((own, children))
    base = min(own for own, _ in found["plain"])
    upstream = min(own for own, _ in found["upstream"]) - base
    worker = min(own for own, _ in found["otel-celery"]) - base
    whole = min(map(sum, found["otel-celery"])) - base
    print("| a log record costs | CPU | of upstream's |")
    print("| --- | --- | --- |")
    print(f"| plain Python's own line | {base:.1f} µs | |")
    print(f"| the SDK's handler, added | {upstream:.1f} µs | 1 |")
    print(f"| otel-celery, added | {worker:.1f} µs | {worker / upstream:.2f} |")
    print(f"| with its exporter process | {whole:.1f} µs | {whole / upstream:.2f} |")


if __name__ == "__main__":
    main()
