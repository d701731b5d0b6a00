# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Groups spans into traces and decides when a trace is complete.

A trace is complete when every parent and the run of every publish have arrived, and no
span has arrived for a moment. A trace that stays incomplete (a task still in its queue,
a parent that is not exported) is shown after a longer pause, and again when more
arrives. Log records belong to the trace that they name; those of a trace of which no
span has come wait for one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from otel_celery_launcher.receiver.spans import memory_bytes
from otel_celery_launcher.tail.log_lines import size_of
from otel_celery_launcher.tail.waterfall import WaterfallRow, arrange, is_publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_celery_launcher.receiver.logs import ReceivedLog
    from otel_celery_launcher.receiver.spans import ReceivedSpan

QUIET_SECONDS = 1.0
PATIENCE_SECONDS = 10.0

# Spans in memory, some 1.3 kB each: half of them of traces that are not complete, the
# other half of those that were shown and may go on.
SPANS_KEPT = 100_000

# Bytes in memory, for spans with large attributes: a third of traces that are not
# complete, a third that were cut early and wait for the output, a third that were shown.
# It is what SPANS_KEPT usual spans take, and small beside a development machine.
BYTES_KEPT = 144 * 1024 * 1024

# Of publishes that runs in other traces have named by their links.
LINKS_KEPT = 10_000


@dataclass(slots=True)
class Trace:
    """A trace as far as it has come."""

    trace_id: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    last: float = 0.0  # when a span came; seconds of the clock
    times_shown: int = 0
    looked_at: int = 0  # spans and records when it was last found not to be whole
    linked: frozenset[str] = frozenset()  # publishes whose runs are in other traces
    size_bytes: int = 0  # of its spans and log records in memory
    records: list[ReceivedLog] = field(default_factory=list)

    @property
    def rows(self) -> list[WaterfallRow]:
        """Its spans in their places."""
        return arrange(self.spans, self.linked, self.records)

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return max(span.end for span in self.spans) - min(
            span.start for span in self.spans
        )

    def is_whole(self) -> bool:
        """Return whether every parent is there, and the run of every publish."""
        ids = {span.span_id for span in self.spans}
        parents = {span.parent_id for span in self.spans} | self.linked
        return all(
            (not span.parent_id or span.parent_id in ids)
            and (not is_publish(span) or span.span_id in parents)
            for span in self.spans
        )


class _Load:
    """How much some traces hold, and how much they may."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._spans = self._bytes = 0

    def add(self, spans: int, size_bytes: int) -> None:
        self._spans += spans
        self._bytes += size_bytes

    def add_trace(self, trace: Trace) -> None:
        self.add(len(trace.spans) + len(trace.records), trace.size_bytes)

    def remove_trace(self, trace: Trace) -> None:
        self.add(-len(trace.spans) - len(trace.records), -trace.size_bytes)

    def is_too_much(self) -> bool:
        return self._spans > self._limit or self._bytes > self._limit_bytes


class Traces:
    """Takes spans from any thread, gives traces to one.

    Args:
        quiet: Seconds without a span after which a whole trace is complete.
        patience: Seconds after which any is shown.
        limit: Spans kept in memory.
        limit_bytes: Bytes that they take.
        clock: Returns seconds.

    Attributes:
        limit: Spans of open traces, and of shown ones, that are kept.
        cut: Traces that were shown early, for want of room.
        dropped: Spans that were not shown, since the output did not keep up.
        records: Log records that came.
        apart: Those that are in no trace, or in one of which no span has come.
    """

    def __init__(
        self,
        quiet: float = QUIET_SECONDS,
        patience: float = PATIENCE_SECONDS,
        limit: int = SPANS_KEPT,
        limit_bytes: int = BYTES_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._patience = quiet, patience
        self.limit = limit // 2
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Trace] = OrderedDict()  # the quietest first
        self._shown: OrderedDict[str, Trace] = OrderedDict()
        self._early: deque[Trace] = deque()
        self._open_load = _Load(self.limit, limit_bytes // 3)
        self._early_load = _Load(self.limit, limit_bytes // 3)
        self._shown_load = _Load(self.limit, limit_bytes // 3)
        self._linked: OrderedDict[str, None] = OrderedDict()
        self._waiting: OrderedDict[str, list[ReceivedLog]] = OrderedDict()
        self._waiting_count = self._waiting_bytes = 0
        self._waiting_limit_bytes = limit_bytes // 3
        self.cut = self.dropped = self.records = self.apart = 0

    def add(self, spans: Iterable[ReceivedSpan]) -> None:
        """Add spans; if they are too many, the trace idle for longest is due early."""
        now = self._clock()
        sized = [(span, memory_bytes(span)) for span in spans]
        with self._lock:
            for span, size_bytes in sized:
                trace = self._open.get(span.trace_id) or self._reopen(span.trace_id)
                trace.spans.append(span)
                trace.last = now
                trace.size_bytes += size_bytes
                self._open_load.add(1, size_bytes)
                self._open.move_to_end(span.trace_id)
                if span.kind == "CONSUMER":
                    self._linked.update(dict.fromkeys(span.links))
            while len(self._linked) > LINKS_KEPT:
                self._linked.popitem(last=False)
            self._make_room()

    def add_records(self, records: Iterable[ReceivedLog]) -> None:
        """Add log records; a trace that was shown is shown again with them.

        They do not delay a trace: a task may log as long as it runs.
        """
        now = self._clock()
        with self._lock:
            for record in records:
                self.records += 1
                if not record.trace_id:
                    self.apart += 1
                    continue
                trace = self._open.get(record.trace_id)
                if trace is None and record.trace_id in self._shown:
                    trace = self._reopen(record.trace_id)
                    trace.last = now
                if trace is None:
                    self._wait_for_span(record)
                else:
                    self._put(trace, record)
            self._make_room()

    def _put(self, trace: Trace, record: ReceivedLog) -> None:
        """Add a log record to an open trace; it counts as a span for the room it takes."""
        trace.records.append(record)
        size_bytes = size_of(record)
        trace.size_bytes += size_bytes
        self._open_load.add(1, size_bytes)

    def _wait_for_span(self, record: ReceivedLog) -> None:
        self._waiting.setdefault(record.trace_id, []).append(record)
        self._waiting.move_to_end(record.trace_id)
        self.apart += 1
        self._waiting_count += 1
        self._waiting_bytes += size_of(record)
        while (
            self._waiting_count > self.limit
            or self._waiting_bytes > self._waiting_limit_bytes
        ):
            self._take_waiting(next(iter(self._waiting)))

    def _take_waiting(self, trace_id: str) -> list[ReceivedLog]:
        records = self._waiting.pop(trace_id, [])
        self._waiting_count -= len(records)
        self._waiting_bytes -= sum(map(size_of, records))
        return records

    def _make_room(self) -> None:
        while self._open_load.is_too_much():
            _, trace = self._open.popitem(last=False)
            self._open_load.remove_trace(trace)
            self._early.append(trace)
            self._early_load.add_trace(trace)
            self.cut += 1
        while self._early_load.is_too_much():  # the output has stopped
            trace = self._early.popleft()
            self._early_load.remove_trace(trace)
            self.dropped += len(trace.spans)

    def due(self, *, is_end: bool = False) -> list[Trace]:
        """Return the traces to show now; all of them at the end."""
        now = self._clock()
        with self._lock:
            due_traces = list(self._early)
            self._early.clear()
            for trace in due_traces:
                self._early_load.remove_trace(trace)
            for trace in list(self._open.values()):
                silence = now - trace.last
                if silence < self._quiet and not is_end:
                    break  # what follows is younger
                if is_end or silence >= self._patience or self._is_newly_whole(trace):
                    del self._open[trace.trace_id]
                    self._open_load.remove_trace(trace)
                    due_traces.append(trace)
            for trace in due_traces:
                self._remember(trace)
            return [
                replace(
                    trace,
                    spans=list(trace.spans),
                    records=list(trace.records),
                    linked=self._links_of(trace),
                )
                for trace in due_traces
            ]

    def _links_of(self, trace: Trace) -> frozenset[str]:
        """Return the publishes of a trace whose runs began traces of their own."""
        return frozenset(
            span.span_id for span in trace.spans if span.span_id in self._linked
        )

    def _is_newly_whole(self, trace: Trace) -> bool:
        """Return whether a trace is whole; each is looked at once for each span."""
        items = len(trace.spans) + len(trace.records)
        if trace.looked_at == items:
            return False
        trace.looked_at = items
        trace.linked = self._links_of(trace)
        return trace.is_whole()

    def _reopen(self, trace_id: str) -> Trace:
        """Return a trace that was shown before, or a new one."""
        trace = self._shown.pop(trace_id, None)
        if trace is None:
            trace = Trace(trace_id)
            waiting = self._take_waiting(trace_id)
            self.apart -= len(waiting)
            for record in waiting:
                self._put(trace, record)
        else:
            self._shown_load.remove_trace(trace)
            self._open_load.add_trace(trace)
        self._open[trace_id] = trace
        return trace

    def _remember(self, trace: Trace) -> None:
        trace.times_shown += 1
        # Those that have come since it was cut.
        waiting = self._take_waiting(trace.trace_id)
        trace.records += waiting
        trace.size_bytes += sum(map(size_of, waiting))
        self.apart -= len(waiting)
        before = self._shown.pop(trace.trace_id, None)  # cut in the middle
        if before is not None:
            self._shown_load.remove_trace(before)
        self._shown[trace.trace_id] = trace
        self._shown_load.add_trace(trace)
        while self._shown_load.is_too_much():
            _, oldest = self._shown.popitem(last=False)
            self._shown_load.remove_trace(oldest)
