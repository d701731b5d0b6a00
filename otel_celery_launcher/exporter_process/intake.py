# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""One queue of the exporter process: what it receives, and who sends it.

Runs in the reader's thread; each exporter sends in a thread of its own.
"""

from __future__ import annotations

import os
import socket
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.health import SecondHealth
from otel_celery_launcher.exporter_process.kept_ring import KeptRing
from otel_celery_launcher.exporter_process.pipeline import Pipeline, Source
from otel_celery_launcher.exporter_process.spooler import Spooler
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.datagrams import (
    NO_DIGEST,
    RESOURCE,
    FrameError,
    read_flush,
)
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_memory import RingMemory
from otel_celery_launcher.signals import LOGS, METRICS, TRACES, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.datagrams import Header
    from otel_celery_launcher.ipc.ring import Ring

# Messages at once, before the other queue has its turn.
READ_AT_ONCE = 1000

# How long nothing is read because the supervisor has not let go of its ring.
KEPT_SECONDS = 1.0

# Between two looks whether it has.
NAP_SECONDS = 0.05

# Makes an exporter, by the number of its signal and its name.
Makers = dict[tuple[int, str], "Callable[[], PreparedExporter]"]


class Intake:
    """A queue, its reader and its exporters.

    Args:
        config: ``routes/shared_queue.py`` makes it.
        counters: The shared page.
        makers: Of its exporters.
        parent: The worker's main process.
        unknown: The resource of items whose own cannot be found, encoded.
        spool: Where it is kept in a file; None for memory.
        flush_metrics: Called with row and token of a request for a flush of metrics.

    Attributes:
        ring: Where it lies.
        last_digest: Of the last message with items; names a resource.
    """

    def __init__(
        self,
        config: dict[str, Any],
        counters: Counters,
        makers: Makers,
        *,
        parent: int,
        unknown: bytes,
        spool: dict[str, Any] | None,
        flush_metrics: Callable[[int, int], None],
    ) -> None:
        self.read = socket.socket(fileno=config["read"])
        self._counters = counters
        self._row = counters.rows[EXPORTER_ROW]
        self._parent = parent
        self._unknown = unknown
        self._flush_metrics = flush_metrics
        self._signals = {
            each["signal"]["number"]: Signal(**each["signal"])
            for each in config["signals"]
        }
        self._figures = {
            number: self._row.of(known) for number, known in self._signals.items()
        }
        self._memory = RingMemory(config["ring"], config["ring_bytes"])
        reads = [Reads(*each, self._figures[each[0]]) for each in makers]
        in_memory = self.ring = self._find_ring(reads)
        self._spooler: Spooler | None = None
        if spool is not None and makers:
            self._spooler = Spooler(spool, self._row, reads)
            self.ring = self._spooler.own_ring(in_memory)
            counters.begin_resource_epoch()
        self.last_digest = NO_DIGEST
        self._flushes: dict[tuple[int, int, int], set[str]] = {}
        self._kept = KeptRing(
            config["number"], config["kept"], config["kept_bytes"], counters,
            list(makers),
        )  # fmt: skip
        self._pipelines = self._make_pipelines(makers)

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
            self.ring.cursors, makers.items(), strict=True
        ):
            known = self._signals[number]
            pipelines[number].append(
                Pipeline(
                    known,
                    _import_function(known.decoder),
                    make,
                    self._row,
                    Source(self.ring, cursor),
                    unknown=self._unknown,
                    on_flush=partial(self._count_flush, number, name),
                    health=self._health_of(known),
                )
            )
        return pipelines

    def _health_of(self, signal: Signal) -> SecondHealth | None:
        if signal.number != LOGS.number:
            return None
        figures, counters = self._figures[signal.number], self._counters
        return SecondHealth(signal, self._row, figures, lambda: counters.is_failing)

    @property
    def pipelines(self) -> list[Pipeline]:
        """What sends it."""
        return [each for some in self._pipelines.values() for each in some]

    def start(self) -> None:
        """Begin to send what a predecessor has left."""
        self._row.add_repeated(sum(each.repeated for each in self.ring.cursors))
        self._count_what_is_missing()
        for pipeline in self.pipelines:
            pipeline.start()

    def _count_what_is_missing(self) -> None:
        """Count what a predecessor was sending after a full ring had dropped it."""
        for number, figures in self._figures.items():
            queued = sum(
                each.queued for each in self.ring.cursors if each.signal == number
            )
            figures.add_dropped(max(0, figures.unaccounted - queued))

    # What comes in.

    def take_over_what_is_kept(self) -> None:
        """Take over the supervisor's ring before anything newer is read.

        It lets go of it within half a second, once there is a heartbeat.
        """
        end = time.monotonic() + KEPT_SECONDS
        while not self._kept.is_taken_over(self.ring) and time.monotonic() < end:
            self._row.note_heartbeat()
            time.sleep(NAP_SECONDS)

    def drain(self) -> tuple[int, bool]:
        """Read what is there; return how many messages, and whether anybody writes."""
        ring, known = self.ring, self._pipelines
        for count in range(READ_AT_ONCE):
            try:
                header = ring.receive(self.read, socket.MSG_DONTWAIT)
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
            elif header.item_count:
                self.last_digest = header.digest
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
        if header.signal == METRICS.number:
            self._flush_metrics(*read_flush(self._flush_body(header)))
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
            row, token = read_flush(self._flush_body(header))
            self._counters.rows[row].of(self._signals[header.signal]).note_flushed(
                token
            )

    def _flush_body(self, header: Header) -> bytes:
        return self.ring.body_at(self.ring.committed, header)

    # What goes out.

    def look_after(self) -> bool:
        """Do what is due after some messages; return whether all senders live."""
        pipelines = self.pipelines
        for pipeline in pipelines:
            pipeline.notice()
        if self._spooler is not None:
            self._spooler.look(pipelines)
        return all(pipeline.is_alive() for pipeline in pipelines)

    def note_queued(self) -> None:
        """Say how much waits."""
        for number, pipelines in self._pipelines.items():
            self._figures[number].note_queued(sum(each.queued for each in pipelines))

    def note_error(self, text: str) -> None:
        """Tell the pipeline in whose thread an exporter has logged."""
        for pipeline in self.pipelines:
            pipeline.note_error(text)

    def stop(self, end: float) -> None:
        """Send what is queued, until a time; monotonic seconds."""
        for pipeline in self.pipelines:
            pipeline.stop(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Leave no file behind of which all is sent."""
        if self._spooler is not None:
            self._spooler.end(self.pipelines)

    def _count_flush(self, number: int, name: str, row: int, token: int) -> None:
        """Say that a flush was carried out, once all exporters of the signal have."""
        key = number, row, token
        with self.ring.lock:
            done = self._flushes.setdefault(key, set())
            done.add(name)
            if len(done) < len(self._pipelines[number]):
                return
            del self._flushes[key]
        self._counters.rows[row].of(self._signals[number]).note_flushed(token)


def _import_function(name: str) -> Callable[[Resource, bytes], Any]:
    """Return what ``module:function`` names."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]
