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
import json
import logging
import os
import select
import signal
import site
import socket
import sys
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery.export_log import ExportLogHandler, last_words
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.errors import EXIT_BUG
from otel_celery_launcher.exporter_process.kept_ring import KeptRing
from otel_celery_launcher.exporter_process.pipeline import Pipeline, Source
from otel_celery_launcher.exporter_process.spooler import Spooler
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import (
    NO_DIGEST,
    RESOURCE,
    Envelope,
    FrameError,
    read_flush,
)
from otel_celery_launcher.ipc.in_flight import killed_span
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_memory import RingMemory
from otel_celery_launcher.ipc.span_frames import encode_span
from otel_celery_launcher.signals import TRACES, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.ipc.datagrams import Header
    from otel_celery_launcher.ipc.ring import Ring

# To sleep between reads costs half of what waking for each span costs. The kernel's
# buffer holds about a hundred messages: a task whose end finds it full has to wait.
NAP_SECONDS = 0.05
NAP_MESSAGES = 32
READ_AT_ONCE = 1000

# Signs of life, and looks at the parent.
HEARTBEAT_SECONDS = 0.5

# How long nothing is read because the supervisor has not let go of its ring.
KEPT_SECONDS = 1.0

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
        self._read = socket.socket(fileno=config["read"])
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
        makers = self._make_makers(config["signals"], config["path"])
        self._memory = RingMemory(config["ring"], config["ring_bytes"])
        reads = [Reads(*each, self._figures[each[0]]) for each in makers]
        in_memory = self._ring = self._find_ring(reads)
        self._spooler: Spooler | None = None
        if config["spool"] is not None and makers:
            self._spooler = Spooler(config["spool"], self._row, reads)
            self._ring = self._spooler.own_ring(in_memory)
            self._counters.begin_resource_epoch()
        self._digest = NO_DIGEST  # of the last message with spans
        self._flushes: dict[tuple[int, int, int], set[str]] = {}
        self._kept = KeptRing(
            config["kept"],
            config["kept_bytes"],
            self._counters,
            list(makers),
        )
        self._pipelines = self._make_pipelines(makers)
        ExportLogHandler(self._note_error).install()
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

    def _make_makers(
        self, configs: list[dict[str, Any]], import_path: list[str]
    ) -> dict[tuple[int, str], Callable[[], PreparedExporter]]:
        """Return what makes each exporter, by the number of its signal and its name."""
        makers = {
            (each["signal"]["number"], name): make
            for each in configs
            for name, make in self._load_exporters(each, import_path).items()
        }
        if makers:
            _use_own_encoder()
        return makers

    def _load_exporters(
        self, config: dict[str, Any], import_path: list[str]
    ) -> dict[str, Callable[[], PreparedExporter]]:
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

    def _find_ring(self, reads: Sequence[Reads]) -> Ring:
        """Return the ring in memory, as the predecessor has left it.

        A predecessor whose main process has ended may live for END_SECONDS.
        """
        while not self._memory.claim() and os.getppid() == self._parent:
            self._row.note_heartbeat()
            time.sleep(NAP_SECONDS)
        ring = self._memory.ring(reads, self._counters.begin_resource_epoch)
        if not self._memory.is_shared:
            self._counters.begin_resource_epoch()  # what was sent before is gone
        return ring

    def _make_pipelines(
        self, makers: dict[tuple[int, str], Callable[[], PreparedExporter]]
    ) -> dict[int, list[Pipeline]]:
        """Return the pipelines of each signal, by its number."""
        pipelines: dict[int, list[Pipeline]] = {number: [] for number in self._signals}
        for cursor, ((number, name), make) in zip(
            self._ring.cursors, makers.items(), strict=True
        ):
            known = self._signals[number]
            pipelines[number].append(
                Pipeline(
                    known,
                    _import_function(known.decoder),
                    make,
                    self._row,
                    Source(self._ring, cursor),
                    unknown=self._resource,
                    on_flush=partial(self._count_flush, number, name),
                )
            )
        return pipelines

    def run(self) -> None:
        """Read until nobody writes any more, then send what is left."""
        pipelines = self._all_pipelines()
        self._row.add_repeated(sum(each.repeated for each in self._ring.cursors))
        self._count_what_is_missing()
        for pipeline in pipelines:
            pipeline.start()
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        drained = time.monotonic()
        self._note_heartbeat()
        while os.getppid() == self._parent:
            poll.poll(HEARTBEAT_SECONDS * 1000)
            self._take_over_what_is_kept()
            count, is_open = self._drain()
            before, drained = drained, time.monotonic()
            self._look_after(pipelines)
            if not is_open:
                break
            if count:
                # Nap until about NAP_MESSAGES have come at the rate of just now.
                elapsed = drained - before
                time.sleep(min(NAP_SECONDS, NAP_MESSAGES * elapsed / count))
        self._take_over_what_is_kept()
        self._drain_what_is_left(poll)
        if os.getppid() != self._parent:
            self._end_killed_runs()
        end = time.monotonic() + END_SECONDS
        for pipeline in pipelines:
            pipeline.stop(max(0.0, end - time.monotonic()))
        self._note_heartbeat()
        if self._spooler is not None:
            self._spooler.end(pipelines)

    def _drain_what_is_left(self, poll: select.poll) -> None:
        """Read until nothing comes: pool children may have spans that did not fit."""
        end = time.monotonic() + LAST_SECONDS
        _, is_open = self._drain()
        while is_open and time.monotonic() < end and poll.poll(QUIET_SECONDS * 1000):
            _, is_open = self._drain()
            self._note_heartbeat()

    def _count_what_is_missing(self) -> None:
        """Count what a predecessor was sending after a full ring had dropped it."""
        for number, figures in self._figures.items():
            queued = sum(
                each.queued for each in self._ring.cursors if each.signal == number
            )
            figures.add_dropped(max(0, figures.unaccounted - queued))

    def _take_over_what_is_kept(self) -> None:
        """Take over the supervisor's ring before anything newer is read.

        It lets go of it within half a second, once there is a heartbeat.
        """
        end = time.monotonic() + KEPT_SECONDS
        while not self._kept.is_taken_over(self._ring) and time.monotonic() < end:
            self._note_heartbeat()
            time.sleep(NAP_SECONDS)

    def _look_after(self, pipelines: Sequence[Pipeline]) -> None:
        """Do what is due after some messages, and twice a second at least."""
        for pipeline in pipelines:
            pipeline.notice()
        self._note_heartbeat()
        if self._spooler is not None:
            self._spooler.look(pipelines)
        if not all(pipeline.is_alive() for pipeline in pipelines):
            os._exit(EXIT_BUG)  # its last words are noted; another one is started

    def _all_pipelines(self) -> list[Pipeline]:
        return [each for some in self._pipelines.values() for each in some]

    def _drain(self) -> tuple[int, bool]:
        """Read what is there; return how many messages, and whether anybody writes."""
        ring, known = self._ring, self._pipelines
        for count in range(READ_AT_ONCE):
            try:
                header = ring.receive(self._read, socket.MSG_DONTWAIT)
            except BlockingIOError:
                ring.tidy()
                return count, True
            except OSError:
                return count, False
            except FrameError:
                self._count_refused()
                continue
            if header is None:
                return count, False
            if not known.get(header.signal):
                self._take_without_exporter(header)
            elif header.signal == TRACES.number and header.item_count:
                self._digest = header.digest
        return READ_AT_ONCE, True

    def _count_refused(self) -> None:
        """Count what is not a message."""
        figures = self._row.of(TRACES)
        figures.add_received(1)
        figures.add_dropped(1)

    def _take_without_exporter(self, header: Header) -> None:
        """Count items of a signal that is not known, or that no exporter can send."""
        if header.signal == RESOURCE:
            return
        figures = self._figures.get(header.signal)
        if figures is None:
            figures = self._row.of(TRACES)
            figures.add_received(header.item_count)
            figures.add_dropped(header.item_count)
            return
        figures.add_received(header.item_count)
        figures.add_failed(header.item_count)
        if not header.item_count:
            body = self._ring.body_at(self._ring.committed, header)
            row, token = read_flush(body)
            self._counters.rows[row].of(self._signals[header.signal]).note_flushed(
                token
            )

    def _end_killed_runs(self) -> None:
        """End the runs of pool children that died with the worker's main process."""
        empty = Resource.get_empty()
        resource = self._ring.resources.get(self._digest) or self._resource
        envelope = Envelope(TRACES.number, resource)
        for record in self._counters.in_flight_records():
            run = record.read()
            if run is None:
                continue
            record.clear()
            reason = {"text": "the worker's main process is gone"}
            try:
                data = encode_span(killed_span(run, empty, time.time_ns(), reason))
                self._ring.append(envelope.resource_message())
                self._ring.append(envelope.message([data]))
            except FrameError:  # of a child whose memory was damaged
                continue

    def _count_flush(self, number: int, name: str, row: int, token: int) -> None:
        """Say that a flush was carried out, once all exporters of the signal have."""
        key = number, row, token
        with self._ring.lock:
            done = self._flushes.setdefault(key, set())
            done.add(name)
            if len(done) < len(self._pipelines[number]):
                return
            del self._flushes[key]
        self._counters.rows[row].of(self._signals[number]).note_flushed(token)

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
