# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process: reads the channel, queues, sends.

A fresh interpreter, never forked from the application; imports neither Celery nor the
application. Started and watched by ``supervisor.py``. Ends when all writers are gone or
the worker's main process is, and all is sent or some seconds have passed.
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
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.delivery.export_log import ExportLogHandler
from otel_celery_launcher.delivery.exporters import (
    load_exporter_classes,
    use_own_encoder,
)
from otel_celery_launcher.errors import EXIT_BUG
from otel_celery_launcher.exporter_process.memory_limit import queue_bytes
from otel_celery_launcher.exporter_process.pipeline import Flush, Pipeline
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.channel import RECEIVE_BYTES
from otel_celery_launcher.ipc.counters import EXPORTER_ROW, Counters
from otel_celery_launcher.ipc.datagrams import (
    FLUSH,
    KIND_FLUSH,
    LENGTH,
    FrameError,
    split_message,
)
from otel_celery_launcher.ipc.killed_span import lost_span
from otel_celery_launcher.ipc.span_frames import encode_resource, encode_span

if TYPE_CHECKING:
    from collections.abc import Callable

# Reading in naps costs half of what waking for each span costs. The kernel's buffer holds a
# hundred messages or so: who finds it full at the end of a task waits.
NAP_SECONDS = 0.05
NAP_MESSAGES = 32
READ_AT_ONCE = 1000

# Signs of life, and looks at the parent.
BEAT_SECONDS = 0.5

# After the worker's end: what is queued may still go out.
END_SECONDS = 5.0


class Server:
    """The reader: from the channel into the pipelines, one thread."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._read = socket.socket(fileno=config["read"])
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._counters = Counters(config["counters"])
        self._row = self._counters.rows[EXPORTER_ROW]
        self._parent = config["parent"]
        self._resource = encode_resource(
            Resource({"service.name": config["service"], "celery.role": "worker"})
        )
        classes = self._load_exporters(config)
        if classes:
            use_own_encoder()
        limit = queue_bytes() // max(1, len(classes))
        self._pipelines = [Pipeline(make, self._row, limit) for make in classes]
        ExportLogHandler(self._note_error).install()
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

    def _load_exporters(self, config: dict[str, Any]) -> list[Callable[[], Any]]:
        """Import the exporters; where one is not found, with all that .pth files add.

        An editable install is found by an import hook that only its .pth file installs.
        These files are the environment's start-up code, so they run for nothing less.
        """
        load = partial(
            load_exporter_classes,
            config["exporters"],
            hides_messages=config["hides_messages"],
        )
        classes, problems = load()
        if problems:
            for folder in config["path"]:
                site.addsitedir(folder)
            classes, problems = load()
        for problem in problems:
            self._row.note_error(f"in the exporter process {problem}")
        return classes

    def run(self) -> None:
        """Read until nobody writes any more, then send what is left."""
        for pipeline in self._pipelines:
            pipeline.start()
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        drained = time.monotonic()
        while os.getppid() == self._parent:
            poll.poll(BEAT_SECONDS * 1000)
            count, is_open = self._drain()
            before, drained = drained, time.monotonic()
            self._beat()
            if not is_open:
                break
            if not all(pipeline.is_alive() for pipeline in self._pipelines):
                os._exit(EXIT_BUG)  # a bug; the supervisor starts another
            if count:
                # So long that so many come, at the rate at which they came just now.
                elapsed = drained - before
                time.sleep(min(NAP_SECONDS, NAP_MESSAGES * elapsed / count))
        self._drain()
        if os.getppid() != self._parent:
            self._end_lost_runs()
        end = time.monotonic() + END_SECONDS
        for pipeline in self._pipelines:
            pipeline.stop(max(0.0, end - time.monotonic()))
        self._beat()

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
            self._take(buffer[:length])
        return READ_AT_ONCE, True

    def _take(self, message: memoryview) -> None:
        try:
            kind, count, resource, body = split_message(message)
        except FrameError:
            self._row.add_received(1)
            self._row.add_dropped(1)
            return
        if kind == KIND_FLUSH:
            self._put_flush(*FLUSH.unpack(body))
            return
        self._resource = resource
        if not self._pipelines:  # none could be imported
            self._row.add_received(count)
            self._row.add_failed(count)
        for pipeline in self._pipelines:
            pipeline.put(resource, count, body)

    def _end_lost_runs(self) -> None:
        """End the runs of pool children that died with the worker's main process."""
        empty = Resource.get_empty()
        for _, note, _ in self._counters.run_notes():
            task = note.read()
            if task is None:
                continue
            note.clear()
            reason = {"text": "the worker's main process is gone"}
            try:
                data = encode_span(lost_span(task, empty, time.time_ns(), reason))
            except FrameError:  # of a child whose memory was damaged
                continue
            for pipeline in self._pipelines:
                pipeline.put(self._resource, 1, LENGTH.pack(len(data)) + data)

    def _put_flush(self, row: int, token: int) -> None:
        waiting = len(self._pipelines)

        def done() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0:
                self._counters.rows[row].flushed = token

        if not self._pipelines:
            done()
        for pipeline in self._pipelines:
            pipeline.put_flush(Flush(done))

    def _note_error(self, text: str) -> None:
        """Tell the pipeline in whose thread an exporter has logged."""
        for pipeline in self._pipelines:
            pipeline.note_error(text)

    def _beat(self) -> None:
        self._row.beat(sum(pipeline.queued for pipeline in self._pipelines))


def main() -> None:
    """Run the exporter process; never returns."""
    config = json.loads(os.environ[inherited.EXPORTER])
    _name_process()
    status = EXIT_BUG
    try:
        Server(config).run()
        status = 0
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
