# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Spans put together to traces, and the moment at which one is complete.

A trace is complete when every parent has come and every publish has its run, and it has
been quiet for a moment. One that never is (a task still in its queue, a parent that
nobody exports) is shown when it has been quiet for longer, and again when more comes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from otel_celery_launcher.waterfall import WaterfallRow, arrange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_celery_launcher.receiving.spans import ReceivedSpan

QUIET_SECONDS = 1.0
PATIENCE_SECONDS = 10.0

# Spans in memory, some 2 kB each: half of them of traces that are not complete, the
# other half of those that were shown and may go on.
SPANS_KEPT = 100_000


@dataclass(slots=True)
class Trace:
    """A trace as far as it has come."""

    trace_id: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    last: float = 0.0  # when a span came; seconds of the clock
    times_shown: int = 0
    looked_at: int = 0  # spans it had when it was last found not to be whole

    @property
    def rows(self) -> list[WaterfallRow]:
        """Its spans in their places."""
        return arrange(self.spans)

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return max(span.end for span in self.spans) - min(
            span.start for span in self.spans
        )

    def is_whole(self) -> bool:
        """Return whether every parent is there, and the run of every publish."""
        ids = {span.span_id for span in self.spans}
        parents = {span.parent_id for span in self.spans}
        return all(
            (not span.parent_id or span.parent_id in ids)
            and (span.kind != "PRODUCER" or span.is_error or span.span_id in parents)
            for span in self.spans
        )


class Traces:
    """Takes spans from any thread, gives traces to one.

    Args:
        quiet: Seconds without a span after which a whole trace is complete.
        patience: Seconds after which any is shown.
        limit: Spans kept in memory.
        clock: Returns seconds.

    Attributes:
        limit: Spans of open traces, and of shown ones, that are kept.
        cut: Traces that were shown early, for want of room.
        dropped: Spans that were not shown, since nobody took what was early.
    """

    def __init__(
        self,
        quiet: float = QUIET_SECONDS,
        patience: float = PATIENCE_SECONDS,
        limit: int = SPANS_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._patience = quiet, patience
        self.limit = limit // 2
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Trace] = OrderedDict()  # the quietest first
        self._shown: OrderedDict[str, Trace] = OrderedDict()
        self._early: deque[Trace] = deque()
        self._open_spans = self._shown_spans = self._early_spans = 0
        self.cut = self.dropped = 0

    def add(self, spans: Iterable[ReceivedSpan]) -> None:
        """Take spans; of what is too much the quietest trace is given early."""
        now = self._clock()
        with self._lock:
            for span in spans:
                trace = self._open.get(span.trace_id) or self._reopen(span.trace_id)
                trace.spans.append(span)
                trace.last = now
                self._open_spans += 1
                self._open.move_to_end(span.trace_id)
            while self._open_spans > self.limit:
                _, trace = self._open.popitem(last=False)
                self._open_spans -= len(trace.spans)
                self._early.append(trace)
                self._early_spans += len(trace.spans)
                self.cut += 1
            while self._early_spans > self.limit:  # the output stands still
                spans_left = len(self._early.popleft().spans)
                self._early_spans -= spans_left
                self.dropped += spans_left

    def due(self, *, is_end: bool = False) -> list[Trace]:
        """Return the traces to show now; all of them at the end."""
        now = self._clock()
        with self._lock:
            found, self._early = list(self._early), deque()
            self._early_spans = 0
            for trace in list(self._open.values()):
                silence = now - trace.last
                if silence < self._quiet and not is_end:
                    break  # what follows is younger
                if is_end or silence >= self._patience or _is_newly_whole(trace):
                    del self._open[trace.trace_id]
                    self._open_spans -= len(trace.spans)
                    found.append(trace)
            for trace in found:
                self._remember(trace)
            return [replace(trace, spans=list(trace.spans)) for trace in found]

    def _reopen(self, trace_id: str) -> Trace:
        """Return a trace that was shown before, or a new one."""
        trace = self._shown.pop(trace_id, None)
        if trace is None:
            trace = Trace(trace_id)
        else:
            self._shown_spans -= len(trace.spans)
            self._open_spans += len(trace.spans)
        self._open[trace_id] = trace
        return trace

    def _remember(self, trace: Trace) -> None:
        trace.times_shown += 1
        self._shown[trace.trace_id] = trace
        self._shown_spans += len(trace.spans)
        while self._shown_spans > self.limit:
            _, oldest = self._shown.popitem(last=False)
            self._shown_spans -= len(oldest.spans)


def _is_newly_whole(trace: Trace) -> bool:
    """Return whether a trace is whole; each is looked at once for each span."""
    if trace.looked_at == len(trace.spans):
        return False
    trace.looked_at = len(trace.spans)
    return trace.is_whole()
