# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process's queue, and the thread that sends it.

Queued messages stay encoded: a decoded span takes four times the memory of its frame.
The queue is bounded by bytes; when it is full, the oldest message is dropped and
counted. Items are decoded batch by batch, sent through the SDK's exporter, and kept
until the collector has accepted them.
"""

from __future__ import annotations

import enum
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.delivery.export_log import error_text, last_words
from otel_celery_launcher.ipc.datagrams import FrameError, split_frames
from otel_celery_launcher.ipc.marshalled import read_resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.ipc.counters import Row
    from otel_celery_launcher.signals import Signal

# A span waits this long at most for others to go with it.
HOLD_SECONDS = 0.5

# One export: receivers refuse more than 4 MiB, and a frame grows when it is encoded.
BATCH_SPANS = 512
BATCH_BYTES = 512 * 1024


# What a queued message costs over its own bytes (tuple, bytes header, deque slot).
MESSAGE_OVERHEAD_BYTES = 140

# Pauses between attempts that failed; the SDK's exporter retries within each, too.
RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)

# After this time without success the exporter is rebuilt: certificates, DNS.
REBUILD_SECONDS = 60.0

# Answers that refuse a batch for its size: half of it may be taken.
_TOO_LARGE = re.compile(r"larger than max|message length too large|code: 413\b")

# Answers that refuse the data itself; everything else may be different later.
_REFUSED_DATA = re.compile(r"INVALID_ARGUMENT|code: (400|422)\b")


# Each of several exporters has its own thread, but they share one row.
_COUNTING = threading.Lock()


@lru_cache(maxsize=256)
def _resource(data: bytes) -> Resource:
    return read_resource(data)


class QueuedMessage(NamedTuple):
    """A message as it came."""

    arrived: float  # monotonic seconds
    resource: bytes
    item_count: int
    body: bytes


class Answer(enum.Enum):
    """What became of an export."""

    TAKEN = enum.auto()
    NOT_WHOLE = enum.auto()  # half of it may be taken
    REFUSED = enum.auto()  # for good
    LATER = enum.auto()


@dataclass
class Flush:
    """A place in the queue; ``done`` is called when all before it is sent."""

    done: Callable[[], None]


@dataclass
class Batch:
    """What goes out in one export."""

    items: list[Any] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)


class Pipeline:
    """Queue and sender of one exporter of a signal.

    Args:
        signal: The signal.
        decode: Makes an item of a resource and a frame.
        make_exporter: Makes the exporter; called in the sender's thread.
        row: The exporter process's row of the counters.
        limit_bytes: Bound of the queue.
    """

    def __init__(
        self,
        signal: Signal,
        decode: Callable[[Resource, bytes], Any],
        make_exporter: Callable[[], PreparedExporter],
        row: Row,
        limit_bytes: int,
    ) -> None:
        self._decode = decode
        self._make_exporter = make_exporter
        self._row = row
        self._figures = row.of(signal)
        self._limit_bytes = limit_bytes
        self._queue: deque[QueuedMessage | Flush] = deque()
        self._bytes = 0
        self._wake = threading.Condition()
        self._is_stopping = False
        self._last_resource = b""
        self.queued = 0
        self._last_error = ""
        self._thread = threading.Thread(
            target=self._run, daemon=True, name=f"otel-export-{signal.name}"
        )

    def start(self) -> None:
        """Start the sender's thread."""
        self._thread.start()

    def put(self, resource: bytes, count: int, body: bytes) -> None:
        """Queue a message; called by the reader."""
        with self._wake:
            self._figures.add_received(count)
            resource = self._intern(resource)
            was_empty, was_full = not self._queue, self._is_full()
            self._queue.append(QueuedMessage(time.monotonic(), resource, count, body))
            self._bytes += len(body) + MESSAGE_OVERHEAD_BYTES
            self.queued += count
            while self._bytes > self._limit_bytes and self._drop_oldest():
                pass
            if was_empty or (self._is_full() and not was_full):
                self._wake.notify()

    def put_flush(self, flush: Flush) -> None:
        """Queue a flush: send all that is queued at once, then call its ``done``."""
        with self._wake:
            self._queue.append(flush)
            self._wake.notify()

    def is_alive(self) -> bool:
        """Return whether the sender's thread lives."""
        return self._thread.is_alive()

    def _intern(self, resource: bytes) -> bytes:
        """Return the last message's copy of a resource if it is equal."""
        if resource != self._last_resource:
            self._last_resource = resource
        return self._last_resource

    def note_error(self, text: str) -> None:
        """Keep what the exporter logged, if it did so in this pipeline's thread."""
        if threading.current_thread() is self._thread:
            self._last_error = text
            self._row.note_error(text)

    def stop(self, seconds: float) -> None:
        """Send what is queued, with a time limit."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join(seconds)

    def _is_full(self) -> bool:
        """Return whether there is enough for a batch."""
        return self.queued >= BATCH_SPANS or self._bytes >= BATCH_BYTES

    def _drop_oldest(self) -> bool:
        for index, item in enumerate(self._queue):
            if not isinstance(item, Flush):
                del self._queue[index]
                self._bytes -= len(item.body) + MESSAGE_OVERHEAD_BYTES
                self.queued -= item.item_count
                self._count_dropped(item.item_count)
                return True
        return False

    def _run(self) -> None:
        """Send until the process ends (the sender's thread)."""
        try:
            self._send()
        except Exception as exc:
            self._row.note_last_words(last_words(exc))
            raise

    def _send(self) -> None:
        exporter: PreparedExporter | None = None
        while True:
            batch = self._next_batch()
            if batch is None:
                break
            exporter = self._deliver(exporter, batch.items)
            for flush in batch.flushes:
                flush.done()

    def _next_batch(self) -> Batch | None:
        with self._wake:
            while (seconds := self._seconds_until_due()) != 0.0:
                if self._is_stopping:
                    return None
                self._wake.wait(seconds)
            items = self._take()
        batch = Batch()
        for item in items:
            if isinstance(item, Flush):
                batch.flushes.append(item)
                continue
            try:
                resource = _resource(item.resource)
                frames = split_frames(item.body)
                batch.items += [self._decode(resource, frame) for frame in frames]
            except FrameError:
                self._count_dropped(item.item_count)
        return batch

    def _seconds_until_due(self) -> float | None:
        """Return how long a batch waits for more; None while there is nothing."""
        if not self._queue:
            return None
        first = self._queue[0]
        if (
            self._is_stopping
            or self._is_full()
            or isinstance(first, Flush)
            or isinstance(self._queue[-1], Flush)
        ):
            return 0.0
        return max(0.0, first.arrived + HOLD_SECONDS - time.monotonic())

    def _take(self) -> list[QueuedMessage | Flush]:
        items: list[QueuedMessage | Flush] = []
        count = size = 0
        while self._queue and count < BATCH_SPANS and size < BATCH_BYTES:
            item = self._queue.popleft()
            items.append(item)
            if not isinstance(item, Flush):
                count += item.item_count
                size += len(item.body)
                self._bytes -= len(item.body) + MESSAGE_OVERHEAD_BYTES
        self.queued -= count
        return items

    def _deliver(
        self, exporter: PreparedExporter | None, items: list[Any]
    ) -> PreparedExporter | None:
        """Send a batch until it is taken or refused; return the exporter to go on with."""
        attempt, built = 0, time.monotonic()
        while items:
            if exporter is None or time.monotonic() - built > REBUILD_SECONDS:
                exporter, built = self._build(), time.monotonic()
            answer = Answer.LATER if exporter is None else self._export(exporter, items)
            if answer is Answer.TAKEN:
                self._count_exported(len(items))
                break
            if answer is Answer.NOT_WHOLE and len(items) > 1:
                half = len(items) // 2
                exporter = self._deliver(exporter, items[:half])
                items = items[half:]
                continue
            is_refused = answer is not Answer.LATER
            if is_refused or not self._wait_for_another_attempt(attempt):
                self._count_failed(len(items))
                break
            attempt += 1
        return exporter

    def _build(self) -> PreparedExporter | None:
        """Build the exporter; certificates may be unreadable for a while."""
        try:
            return self._make_exporter()
        except Exception as exc:  # noqa: BLE001 - any exporter; tried again
            self.note_error(error_text(exc))
            return None

    def _wait_for_another_attempt(self, attempt: int) -> bool:
        """Wait; return False where the process ends and one attempt was made."""
        if not self._last_error:
            self._row.note_error("no answer")
        pause = RETRY_PAUSES[min(attempt, len(RETRY_PAUSES) - 1)]
        with self._wake:
            is_last = self._is_stopping
            if is_last and attempt:
                return False
            self._wake.wait_for(lambda: self._is_stopping and not is_last, pause)
        return True

    def _count_exported(self, count: int) -> None:
        with _COUNTING:
            self._figures.add_exported(count)

    def _count_failed(self, count: int) -> None:
        with _COUNTING:
            self._figures.add_failed(count)

    def _count_dropped(self, count: int) -> None:
        with _COUNTING:
            self._figures.add_dropped(count)

    def _export(self, exporter: PreparedExporter, items: list[Any]) -> Answer:
        self._last_error = ""
        try:
            if exporter.export(items):
                return Answer.TAKEN
        except OSError as exc:  # of older HTTP exporters, where nobody listens
            self.note_error(error_text(exc))
            return Answer.LATER
        except Exception as exc:  # noqa: BLE001 - what an encoder makes of a span
            self.note_error(f"cannot be encoded: {error_text(exc)}")
            return Answer.NOT_WHOLE
        if _TOO_LARGE.search(self._last_error):
            return Answer.NOT_WHOLE
        is_refused = _REFUSED_DATA.search(self._last_error)
        return Answer.REFUSED if is_refused else Answer.LATER
