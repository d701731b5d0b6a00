# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process: reads the channel, queues, sends.

A fresh interpreter, never forked from the application; imports neither Celery nor the
application. Started and watched by ``routes/supervisor.py``. Ends when no process
writes any more, or the worker's main process has ended, and then all is sent or a time
limit has passed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import site
import socket
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery.export_log import ExportLogHandler, last_words
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.errors import EXIT_BUG
from otel_celery_launcher.exporter_process.memory_limit import queue_bytes
from otel_celery_launcher.exporter_process.pipeline import Flush, Pipeline
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.channel import RECEIVE_BYTES
from otel_celery_launcher.ipc.counters import EXPORTER_ROW, Counters
from otel_celery_launcher.ipc.datagrams import (
    LENGTH,
    FrameError,
    read_flush,
    split_message,
)
from otel_celery_launcher.ipc.in_flight import killed_span
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.span_frames import encode_span
from otel_celery_launcher.signals import TRACES, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.delivery.exporters import PreparedExporter

# To sleep between reads costs half of what waking for each span costs. The kernel's
# buffer holds about a hundred messages: a task whose end finds it full has to wait.
NAP_SECONDS = 0.05
NAP_MESSAGES = 32
READ_AT_ONCE = 1000

# Signs of life, and looks at the parent.
HEARTBEAT_SECONDS = 0.5

# After the worker's end: what is queued may still go out.
END_SECONDS = 5.0


class Server:
    """The reader: moves messages from the channel into the pipelines, in one thread.

    Args:
        config: The configuration that ``routes/supervisor.py`` makes.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._read = socket.socket(fileno=config["read"])
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._counters = Counters(config["counters"])
        self._row = self._counters.rows[EXPORTER_ROW]
        self._parent = config["parent"]
        self._resource = encode_resource(
            Resource({"service.name": config["service"], "celery.role": "worker"})
        )
        self._signals = {
            each["signal"]["number"]: Signal(**each["signal"])
            for each in config["signals"]
        }
        self._figures = {
            number: self._row.of(known) for number, known in self._signals.items()
        }
        self._pipelines = self._make_pipelines(config["signals"], config["path"])
        ExportLogHandler(self._note_error).install()
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

    def _make_pipelines(
        self, configs: list[dict[str, Any]], import_path: list[str]
    ) -> dict[int, list[Pipeline]]:
        """Return the pipelines of each signal, by its number."""
        makers = {
            each["signal"]["number"]: self._load_exporters(each, import_path)
            for each in configs
        }
        total = sum(map(len, makers.values()))
        if total:
            _use_own_encoder()
        limit = queue_bytes() // max(1, total)
        pipelines = {}
        for number, known in self._signals.items():
            decode = _import_function(known.decoder)
            pipelines[number] = [
                Pipeline(known, decode, make, self._row, limit)
                for make in makers[number]
            ]
        return pipelines

    def _load_exporters(
        self, config: dict[str, Any], import_path: list[str]
    ) -> list[Callable[[], PreparedExporter]]:
        """Import the exporters; if one is not found, process .pth files and try again.

        An editable install is found by an import hook that only its .pth file installs.
        These files run the environment's start-up code, so they run only if needed.
        """
        known, names = self._signals[config["signal"]["number"]], config["exporters"]
        redacts = config["redacts_exceptions"]
        makers, problems = load_exporters(known, names, redacts_exceptions=redacts)
        if problems:
            for folder in import_path:
                site.addsitedir(folder)
            makers, problems = load_exporters(known, names, redacts_exceptions=redacts)
        for problem in problems:
            self._row.note_error(f"in the exporter process {problem}")
        return makers

    def run(self) -> None:
        """Read until nobody writes any more, then send what is left."""
        pipelines = [each for some in self._pipelines.values() for each in some]
        for pipeline in pipelines:
            pipeline.start()
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        drained = time.monotonic()
        while os.getppid() == self._parent:
            poll.poll(HEARTBEAT_SECONDS * 1000)
            count, is_open = self._drain()
            before, drained = drained, time.monotonic()
            self._note_heartbeat()
            if not is_open:
                break
            if not all(pipeline.is_alive() for pipeline in pipelines):
                os._exit(EXIT_BUG)  # its last words are noted; another one is started
            if count:
                # Nap until about NAP_MESSAGES have come at the rate of just now.
                elapsed = drained - before
                time.sleep(min(NAP_SECONDS, NAP_MESSAGES * elapsed / count))
        self._drain()
        if os.getppid() != self._parent:
            self._end_killed_runs()
        end = time.monotonic() + END_SECONDS
        for pipeline in pipelines:
            pipeline.stop(max(0.0, end - time.monotonic()))
        self._note_heartbeat()

    def _drain(self) -> tuple[int, bool]:
        """Read what is there; return how many messages, and whether anybody writes."""
        buffer = self._buffer
        for count in range(READ_AT_ONCE):
            try:
                length = self._read.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count, True
            except OSError:
                return count, False
            if not length:
                return count, False
            self._receive(buffer[:length])
        return READ_AT_ONCE, True

    def _receive(self, data: memoryview) -> None:
        count = 1
        try:
            number, count, resource, body = split_message(data)
            pipelines = self._pipelines[number]
            if not count:
                self._put_flush(number, *read_flush(body))
                return
        except (FrameError, LookupError):  # of no signal, or no row, that is known here
            figures = self._row.of(TRACES)
            figures.add_received(count)
            figures.add_dropped(count)
            return
        if number == TRACES.number:
            self._resource = resource
        if not pipelines:  # none could be imported
            self._figures[number].add_received(count)
            self._figures[number].add_failed(count)
        for pipeline in pipelines:
            pipeline.put(resource, count, body)

    def _end_killed_runs(self) -> None:
        """End the runs of pool children that died with the worker's main process."""
        empty = Resource.get_empty()
        for _, record, _ in self._counters.in_flight_records():
            run = record.read()
            if run is None:
                continue
            record.clear()
            reason = {"text": "the worker's main process is gone"}
            try:
                data = encode_span(killed_span(run, empty, time.time_ns(), reason))
            except FrameError:  # of a child whose memory was damaged
                continue
            for pipeline in self._pipelines.get(TRACES.number, ()):
                pipeline.put(self._resource, 1, LENGTH.pack(len(data)) + data)

    def _put_flush(self, number: int, row: int, token: int) -> None:
        pipelines = self._pipelines[number]
        waiting = len(pipelines)
        figures = self._counters.rows[row].of(self._signals[number])

        def done() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0:
                figures.note_flushed(token)

        if not pipelines:
            done()
        for pipeline in pipelines:
            pipeline.put_flush(Flush(done))

    def _note_error(self, text: str) -> None:
        """Tell the pipeline in whose thread an exporter has logged."""
        for pipelines in self._pipelines.values():
            for pipeline in pipelines:
                pipeline.note_error(text)

    def _note_heartbeat(self) -> None:
        for number, pipelines in self._pipelines.items():
            self._figures[number].note_queued(sum(each.queued for each in pipelines))
        self._row.note_heartbeat()


def _import_function(name: str) -> Callable[[Resource, bytes], Any]:
    """Return what ``module:function`` names."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def _use_own_encoder() -> None:
    """Make the OTLP exporters encode with ``span_encoder.py``.

    Imports protobuf; called after ``load_exporters`` has imported the exporters. If
    anything in them is not as expected, the SDK's encoder stays.
    """
    try:
        from otel_celery_launcher.exporter_process import span_encoder

        is_faithful = span_encoder.is_faithful()
    except Exception:  # noqa: BLE001 - of another release's encoder or protobuf
        return
    if is_faithful:
        otlp_exporters.replace_encoder(span_encoder.encode_spans)


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
