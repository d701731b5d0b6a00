# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Sends what workers have left in a spool directory, by hand."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.command_line import program_command_line
from otel_celery_launcher.delivery.export_log import ExportLogHandler
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.delivery.failures import Failure, explain
from otel_celery_launcher.exporter_process.pipeline import Pipeline, Source
from otel_celery_launcher.exporter_process.spool import (
    SPOOL_BYTES_AT_LEAST,
    Spool,
    ring_in,
    shown,
    waiting_in,
)
from otel_celery_launcher.exporter_process.spooler import adopt
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_memory import RingMemory
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.messages import say
from otel_celery_launcher.settings.corrections import prepare_environment
from otel_celery_launcher.settings.settings import Settings
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.exporter_process.spool import RingFile

LOOK_SECONDS = 0.05

# How long the sender may take to end.
STOP_SECONDS = 5.0


def send(directory: str, environ: MutableMapping[str, str], wait: float) -> int:
    """Send what has no owner, and remove its files.

    Args:
        directory: The spool directory.
        environ: Where to send to: OTEL_EXPORTER_OTLP_*.
        wait: Seconds without success after which it gives up.

    Returns:
        How many spans are left.
    """
    environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes past all logging
    problems = prepare_environment(environ)
    settings = Settings.from_environ(environ, program_command_line("worker", "spool"))
    makers, missing = load_exporters(
        TRACES,
        settings.traces.exporters,
        redacts_exceptions=settings.redacts_exceptions,
    )
    for problem in (*problems, *missing):
        say(problem)
    counters = Counters()
    reads = [
        Reads(TRACES.number, name, counters.rows[EXPORTER_ROW].of(TRACES))
        for name in makers
    ]
    pipelines = _pipelines(counters, reads, list(makers.values()))
    if not pipelines:
        say("no exporter: expected OTEL_TRACES_EXPORTER to name one. Nothing is sent")
        return 1
    ExportLogHandler(partial(_note_error, pipelines)).install()
    files = _adopt(directory, reads, pipelines)
    for pipeline in pipelines:
        pipeline.start()
    _wait(counters, pipelines, wait)
    for pipeline in pipelines:
        pipeline.stop(STOP_SECONDS)
    _remove_what_is_sent(files)
    error = counters.error or f"no answer within {wait:g} s"
    return _report(counters, directory, explain(error, settings.traces.printable_path))


def _report(counters: Counters, directory: str, failure: Failure) -> int:
    """Say what was sent, and why not all; return what is left.

    Args:
        counters: Of this command.
        directory: Where an owner may just have ended, too.
        failure: Why something is left, if something is.
    """
    left = waiting_in(Path(directory))
    totals = counters.of(TRACES)
    say(f"{totals.exported} spans sent, {totals.lost} refused, {left} left")
    if left:
        say(f"the collector does not take them: {failure.reason}; {failure.advice}")
    return left


def _pipelines(
    counters: Counters,
    reads: list[Reads],
    makers: list[Callable[[], PreparedExporter]],
) -> list[Pipeline]:
    """Return a pipeline for each exporter, with an empty queue of its own."""
    ring = RingMemory(None, SPOOL_BYTES_AT_LEAST).ring(reads)
    return [
        Pipeline(
            TRACES,
            read_span,
            make,
            counters.rows[EXPORTER_ROW],
            Source(ring, cursor),
            unknown=encode_resource(Resource.get_empty()),
            on_flush=lambda *_: None,
        )
        for cursor, make in zip(ring.cursors, makers, strict=True)
    ]


def _note_error(pipelines: list[Pipeline], text: str) -> None:
    """Tell the pipeline in whose thread an exporter has logged."""
    for pipeline in pipelines:
        pipeline.note_error(text)


def _adopt(
    directory: str, reads: list[Reads], pipelines: list[Pipeline]
) -> list[RingFile]:
    spool = Spool(directory, SPOOL_BYTES_AT_LEAST, f"spool-command-{os.getpid()}")
    files = []
    for file in spool.orphans():
        ring = ring_in(file, reads)
        if ring is None:
            say(f"{shown(file.path)} is left alone: another version has written it")
            spool.leave_alone(file)
            continue
        files.append(file)
        adopt(ring, pipelines)
    return files


def _wait(counters: Counters, pipelines: list[Pipeline], wait: float) -> None:
    """Wait until all is sent, or nothing has been taken for a while."""
    totals = partial(counters.of, TRACES)
    last, moved = 0, time.monotonic()
    while any(each.queued for each in pipelines):
        done = totals().exported + totals().lost
        if done > last:
            last, moved = done, time.monotonic()
        if time.monotonic() - moved > wait:
            return
        time.sleep(LOOK_SECONDS)


def _remove_what_is_sent(files: list[RingFile]) -> None:
    for file in files:
        if file.ring is not None and file.ring.is_empty():
            file.remove()
