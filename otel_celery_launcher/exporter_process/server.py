# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process: receives into the ring, and sends what is there.

A fresh interpreter, never forked from the application; imports neither Celery nor the
application. Started and watched by ``routes/supervisor.py``. Ends when no process
writes any more, or the worker's main process has ended, and then all is sent or a time
limit has passed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import select
import signal
import site
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery.encoders import own_encoder
from otel_celery_launcher.delivery.export_log import ExportLogHandler, last_words
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.errors import EXIT_BUG
from otel_celery_launcher.exporter_process.intake import Intake, Makers
from otel_celery_launcher.exporter_process.metric_export import MetricExport
from otel_celery_launcher.exporter_process.pipeline import Pipeline
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import (
    Envelope,
    FrameError,
)
from otel_celery_launcher.ipc.in_flight import killed_span
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.span_frames import encode_span
from otel_celery_launcher.metrics.page import DamagedPageError
from otel_celery_launcher.signals import METRICS, TRACES, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.delivery.exporters import PreparedExporter

# To sleep between reads costs half of what waking for each span costs. The kernel's
# buffer holds some two hundred messages: a task whose end finds it full has to wait.
NAP_SECONDS = 0.05
NAP_MESSAGES = 64
READ_AT_ONCE = 1000

# Signs of life, and looks at the parent.
HEARTBEAT_SECONDS = 0.5

# Objects that are there more than before until Python looks for cycles. A batch of spans
# has some 8,000, which all go when it is sent: to look at them costs a tenth of all.
COLLECTED_OBJECTS = 20_000

# How long what is left is read at the end, and after which silence it is all.
LAST_SECONDS, QUIET_SECONDS = 2.0, 0.2

# After the worker's end: what is queued may still go out.
END_SECONDS = 5.0


class Server:
    """The reader: receives messages into the ring, in one thread.

    Args:
        config: The configuration that ``routes/supervisor.py`` makes.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._counters = Counters(config["counters"])
        self._row = self._counters.rows[EXPORTER_ROW]
        self._parent = config["parent"]
        self._resource = encode_resource(
            Resource({"service.name": config["service"], "celery.role": "worker"})
        )
        makers = [
            self._make_makers(queue["signals"], config["path"])
            for queue in config["queues"]
        ]
        _use_own_encoders({number for each in makers for number, _ in each})
        self._intakes = [
            Intake(
                queue,
                self._counters,
                of_queue,
                parent=self._parent,
                unknown=self._resource,
                spool=None if queue["number"] else config["spool"],
                flush_metrics=self._flush_metrics,
            )
            for queue, of_queue in zip(config["queues"], makers, strict=True)
        ]
        self._metrics = self._make_metrics(config)
        ExportLogHandler(self._note_error).install()
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

    def _make_makers(
        self, configs: list[dict[str, Any]], import_path: list[str]
    ) -> Makers:
        """Return what makes each exporter, by the number of its signal and its name."""
        return {
            (each["signal"]["number"], name): make
            for each in configs
            for name, make in self._load_exporters(each, import_path).items()
        }

    def _load_exporters(
        self, config: dict[str, Any], import_path: list[str]
    ) -> dict[str, Callable[[], PreparedExporter]]:
        """Import the exporters; if one is not found, process .pth files and try again.

        An editable install is found by an import hook that only its .pth file installs.
        These files run the environment's start-up code, so they run only if needed.
        """
        known, names = Signal(**config["signal"]), config["exporters"]
        redacts = config["redacts_exceptions"]
        makers, problems = load_exporters(known, names, redacts_exceptions=redacts)
        if problems:
            for folder in import_path:
                site.addsitedir(folder)
            makers, problems = load_exporters(known, names, redacts_exceptions=redacts)
        for problem in problems:
            self._row.note_error(f"in the exporter process {problem}")
        return makers

    def _make_metrics(self, config: dict[str, Any]) -> MetricExport | None:
        """Return what exports the page; None without metrics."""
        metrics = config["metrics"]
        if metrics is None:
            return None
        load = partial(
            self._load_exporters,
            {"signal": METRICS._asdict(), "redacts_exceptions": False, **metrics},
            config["path"],
        )
        try:
            made = MetricExport(
                metrics, load, self._counters, self._parent, config["application_path"]
            )
        except (OSError, DamagedPageError):  # no memory, or another release's
            return None
        made.watch(self._all_pipelines())
        return made

    def run(self) -> None:
        """Read until nobody writes any more, then send what is left."""
        for intake in self._intakes:
            intake.start()
        if self._metrics is not None:
            self._metrics.start()
        gc.freeze()  # what is imported stays
        gc.set_threshold(COLLECTED_OBJECTS, 20, 20)
        poll = select.poll()
        for intake in self._intakes:
            poll.register(intake.read, select.POLLIN)
        drained = time.monotonic()
        self._note_heartbeat()
        while os.getppid() == self._parent:
            is_woken = poll.poll(HEARTBEAT_SECONDS * 1000)
            count, is_open = self._receive()
            before, drained = drained, time.monotonic()
            self._look_after()
            if not is_open:
                break
            if count:
                # Nap until about NAP_MESSAGES have come at the rate of just now.
                elapsed = drained - before
                time.sleep(min(NAP_SECONDS, NAP_MESSAGES * elapsed / count))
            elif is_woken:  # by a queue that nobody writes to any more
                time.sleep(NAP_SECONDS)
        self._receive_what_is_left(poll)
        self._end()

    def _end(self) -> None:
        """Send what is left, with a time limit."""
        is_orphan = os.getppid() != self._parent
        if is_orphan:
            self._end_killed_runs()
        end = time.monotonic() + END_SECONDS
        for intake in self._intakes:
            intake.stop(end)
        self._note_heartbeat()
        if self._metrics is not None:
            self._metrics.stop(max(0.0, end - time.monotonic()), is_orphan=is_orphan)
        for intake in self._intakes:
            intake.close()

    def _receive(self) -> tuple[int, bool]:
        """Read what is there, spans first.

        Returns:
            How many messages, and whether anybody writes to the first queue.
        """
        total, are_open = 0, []
        for intake in self._intakes:
            intake.take_over_what_is_kept()
            count, is_open = intake.drain()
            total += count
            are_open.append(is_open)
        return total, are_open[0]

    def _receive_what_is_left(self, poll: select.poll) -> None:
        """Read until nothing comes: pool children may have items that did not fit."""
        end = time.monotonic() + LAST_SECONDS
        _, is_open = self._receive()
        while is_open and time.monotonic() < end and poll.poll(QUIET_SECONDS * 1000):
            _, is_open = self._receive()
            self._note_heartbeat()

    def _look_after(self) -> None:
        """Do what is due after some messages, and twice a second at least."""
        are_well = [intake.look_after() for intake in self._intakes]
        self._note_heartbeat()
        is_well = self._metrics is None or self._metrics.is_alive()
        if not (is_well and all(are_well)):
            os._exit(EXIT_BUG)  # its last words are noted; another one is started

    def _all_pipelines(self) -> list[Pipeline]:
        return [each for intake in self._intakes for each in intake.pipelines]

    def _flush_metrics(self, row: int, token: int) -> None:
        """Export metrics now, and say so."""
        note = self._counters.rows[row].of(METRICS).note_flushed
        if self._metrics is None:
            note(token)
        else:
            self._metrics.flush(partial(note, token))

    def _end_killed_runs(self) -> None:
        """End the runs of pool children that died with the worker's main process."""
        empty = Resource.get_empty()
        ring = self._intakes[0].ring
        resource = ring.resources.get(self._intakes[0].last_digest) or self._resource
        envelope = Envelope(TRACES.number, resource)
        for record in self._counters.in_flight_records():
            run = record.read()
            if run is None:
                continue
            record.clear()
            reason = {"text": "the worker's main process is gone"}
            if self._metrics is not None:
                self._metrics.end_killed_run(run, time.time_ns())
            try:
                data = encode_span(killed_span(run, empty, time.time_ns(), reason))
                ring.append(envelope.resource_message())
                ring.append(envelope.message([data]))
            except FrameError:  # of a child whose memory was damaged
                continue

    def _note_error(self, text: str) -> None:
        """Tell the pipeline in whose thread an exporter has logged."""
        for intake in self._intakes:
            intake.note_error(text)

    def _note_heartbeat(self) -> None:
        for intake in self._intakes:
            intake.note_queued()
        self._row.note_heartbeat()


def _use_own_encoders(signals: set[int]) -> None:
    """Make the OTLP exporters of the SDK encode as we do, where that gives the same.

    Called after ``load_exporters`` has imported them.
    """
    for number in signals:
        if (own := own_encoder(number)) is not None:
            otlp_exporters.replace_encoder(own.name, own.encode)


def main() -> None:
    """Run the exporter process; never returns.

    If an exception ends it, its text is left in the counters for the worker to log,
    since the standard streams of this process lead to /dev/null.
    """
    config = json.loads(os.environ[inherited.EXPORTER])
    _name_process()
    status = EXIT_BUG
    try:
        Server(config).run()
        status = 0
    except Exception as exc:  # noqa: BLE001 - the boundary of the process
        Counters(config["counters"]).rows[EXPORTER_ROW].note_last_words(last_words(exc))
    finally:
        # The sender's thread may be in a call that no longer matters.
        os._exit(status)


def _name_process() -> None:
    """Name the process in ``ps`` and ``top`` (Linux)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(15, b"otel-exporter", 0, 0, 0)  # PR_SET_NAME
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


if __name__ == "__main__":
    main()
