# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The sender of one exporter: takes messages from the ring, and frees what was taken.

Queued messages stay encoded in the ring: a decoded span takes four times the memory of
its frame. Items are decoded batch by batch and sent; a message is freed when the fate of
its items is decided (``attempts.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.delivery.export_log import last_words
from otel_celery_launcher.delivery.health import MainHealth
from otel_celery_launcher.exporter_process.attempts import Attempts, Delivery
from otel_celery_launcher.ipc.datagrams import FrameError, read_flush, split_frames
from otel_celery_launcher.ipc.marshalled import read_resource

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.delivery.answers import Answer
    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.delivery.health import Health
    from otel_celery_launcher.ipc.counter_rows import Row
    from otel_celery_launcher.ipc.ring import Ring
    from otel_celery_launcher.ipc.ring_cursor import Cursor, Taken
    from otel_celery_launcher.signals import Signal

# A span waits this long at most for others to go with it.
HOLD_SECONDS = 0.5

# One export: receivers refuse more than 4 MiB, and a frame grows when it is encoded.
BATCH_BYTES = 512 * 1024

# Each of several exporters has its own thread, but they share one row.
_COUNTING = threading.Lock()

# Called with the row and the token of a flush that was carried out.
OnFlush = Callable[[int, int], None]


@lru_cache(maxsize=256)
def _resource(data: bytes) -> Resource:
    return read_resource(data)


class Source(NamedTuple):
    """A ring, and the exporter's place in it."""

    ring: Ring
    cursor: Cursor


@dataclass(slots=True)
class Batch:
    """What was taken and not freed.

    Attributes:
        source: Where it was taken from.
        position: Of the ring, behind it.
        item_count: Items in its messages.
        items: Those that can be decoded, and are not yet decided.
        added: Those that came while it was stuck.
        flushes: Row and token of each.
    """

    source: Source
    position: int = 0
    item_count: int = 0
    items: list[Any] = field(default_factory=list)
    added: list[Any] = field(default_factory=list)
    flushes: list[tuple[int, int]] = field(default_factory=list)


class Pipeline:
    """The sender of one exporter of a signal.

    Args:
        signal: The signal.
        decode: Makes an item of a resource and a frame.
        make_exporter: Makes the exporter; called in the sender's thread.
        row: The exporter process's row of the counters.
        source: The queue of this worker.
        unknown: The resource of items whose own cannot be found, encoded.
        on_flush: Called when all before a flush was sent.
        health: Gets what becomes of attempts; None for that of spans.
    """

    def __init__(
        self,
        signal: Signal,
        decode: Callable[[Resource, bytes], Any],
        make_exporter: Callable[[], PreparedExporter],
        row: Row,
        source: Source,
        *,
        unknown: bytes,
        on_flush: OnFlush,
        health: Health | None = None,
    ) -> None:
        self._health = health or MainHealth(row, row.of(signal))
        # Called after each request: how long it took in seconds, and the answer.
        self.on_sent: Callable[[float, Answer], object] | None = None
        self._decode = decode
        self._row = row
        self._figures, self._batch_items = row.of(signal), signal.batch
        self._own = source
        self._ring, self._cursor = source
        self._adopted: list[Source] = []
        self._unknown = unknown
        self._on_flush = on_flush
        self._batch = Batch(source)
        self._is_stopping = self._is_idle = False
        self._make_exporter = make_exporter
        self._attempts = Attempts(
            self._make,
            Delivery(
                note_error=self._note,
                count_taken=self._count_exported,
                count_refused=self._count_failed,
                more=self._more,
                pause=self._pause,
            ),
        )
        self._last_error = ""
        self._thread = threading.Thread(
            target=self._run, daemon=True, name=f"otel-export-{signal.name}"
        )

    def _make(self) -> PreparedExporter:
        exporter = self._make_exporter()
        exporter.on_sent = self.on_sent
        return exporter

    @property
    def queued(self) -> int:
        """Items that wait, or are being sent."""
        adopted = sum(each.cursor.queued for each in self._adopted)
        return self._cursor.queued + adopted

    @property
    def key(self) -> tuple[int, str]:
        """The number of the signal, and the exporter's name."""
        return self._cursor.signal, self._cursor.name

    def adopt(self, source: Source) -> None:
        """Send what another worker has left in a file, before what is our own."""
        with self._ring.lock:
            self._adopted.append(source)
            self._cursor.wake.notify()

    def is_done_with(self, ring: Ring) -> bool:
        """Return whether nothing of an adopted ring is left."""
        return all(each.ring is not ring for each in self._adopted)

    def start(self) -> None:
        """Start the sender's thread."""
        self._thread.start()

    def notice(self) -> None:
        """Look at what has come; called by the reader after some messages."""
        cursor = self._cursor
        if cursor.waiting or cursor.flushes:
            with self._ring.lock:
                if self._is_idle or self._is_full() or cursor.flushes:
                    cursor.wake.notify()

    def is_alive(self) -> bool:
        """Return whether the sender's thread lives."""
        return self._thread.is_alive()

    def note_error(self, text: str) -> None:
        """Keep what the exporter logged, if it did so in this pipeline's thread."""
        if threading.current_thread() is self._thread:
            self._note(text)

    def stop(self, seconds: float) -> None:
        """Send what is queued, with a time limit."""
        with self._ring.lock:
            self._is_stopping = True
            self._cursor.wake.notify()
        self._thread.join(seconds)

    def _is_full(self) -> bool:
        """Return whether there is enough for a batch."""
        cursor = self._cursor
        return (
            cursor.waiting >= self._batch_items or cursor.waiting_bytes >= BATCH_BYTES
        )

    def _run(self) -> None:
        """Send until the process ends (the sender's thread)."""
        try:
            while self._next_batch() and self._attempts.deliver(self._batch.items):
                self._free(self._batch)
        except Exception as exc:
            self._row.note_last_words(last_words(exc))
            raise

    def _free(self, batch: Batch) -> None:
        """Forget a batch, of which all is decided."""
        ring, cursor = batch.source
        with ring.lock:
            cursor.free(batch.position, batch.item_count)
            is_empty = not cursor.waiting and not cursor.flushes
        if batch.source is not self._own:
            with _COUNTING:  # counted as it is sent: another may go on with the rest
                self._figures.add_received(batch.item_count)
            if is_empty:
                self._adopted.remove(batch.source)
            return  # whoever had asked for flushes of that ring is gone
        for row, token in batch.flushes:
            self._on_flush(row, token)

    def _next_source(self) -> Source | None:
        """Return the ring that comes before our own, if there is one.

        It waits while somebody waits for a flush, and stays where it is at the end.
        """
        if not self._adopted or self._is_stopping or self._cursor.flushes:
            return None
        return self._adopted[0]

    def _next_batch(self) -> bool:
        """Take a batch when one is due; return False if the process ends."""
        with self._ring.lock:
            while (seconds := self._seconds_until_due()) != 0.0:
                if self._is_stopping:
                    return False
                self._is_idle = seconds is None
                self._cursor.wake.wait(seconds)
            self._is_idle = False
            self._batch = batch = Batch(self._next_source() or self._own)
        self._batch.items = self._take(batch)
        return True

    def _take(self, batch: Batch) -> list[Any]:
        ring, cursor = batch.source
        with ring.lock:
            taken = cursor.take(self._batch_items, BATCH_BYTES)
            batch.position = cursor.position
        return self._read(ring, taken)

    def _seconds_until_due(self) -> float | None:
        """Return how long a batch waits for more; None while there is nothing."""
        cursor = self._cursor
        if self._next_source() is not None:
            return 0.0
        if not cursor.waiting and not cursor.flushes:
            return None
        if self._is_stopping or cursor.flushes or self._is_full():
            return 0.0
        wait = cursor.arrived() + HOLD_SECONDS - time.monotonic()
        return max(0.0, wait) if wait <= HOLD_SECONDS else 0.0

    def _more(self) -> list[Any]:
        """Take further messages into the batch that is stuck."""
        items = self._take(self._batch)
        self._batch.added += items
        return items

    def _read(self, ring: Ring, taken: list[Taken]) -> list[Any]:
        """Decode messages; what cannot be decoded is counted as dropped."""
        items: list[Any] = []
        for count, digest, body in taken:
            self._batch.item_count += count
            try:
                if not count:
                    self._batch.flushes.append(read_flush(body))
                    continue
                data = ring.resources.get(digest)
                resource = _resource(self._unknown if data is None else data)
                items += [self._decode(resource, each) for each in split_frames(body)]
            except FrameError:
                self._count_dropped(count)
        return items

    def _pause(self, seconds: float, is_first: bool) -> bool:
        """Wait; return False where the process ends and one attempt was made."""
        if not self._last_error:
            self._note("no answer")
        self._last_error = ""
        with self._ring.lock:
            is_last = self._is_stopping
            if is_last and not is_first:
                return False
            self._cursor.wake.wait_for(
                lambda: self._is_stopping and not is_last, seconds
            )
        return True

    def _note(self, text: str) -> None:
        self._last_error = text
        self._health.note_error(text)

    def _count_exported(self, count: int) -> None:
        with _COUNTING:
            self._health.count_exported(count)

    def _count_failed(self, count: int) -> None:
        with _COUNTING:
            self._figures.add_failed(count)

    def _count_dropped(self, count: int) -> None:
        with _COUNTING:
            self._figures.add_dropped(count)
