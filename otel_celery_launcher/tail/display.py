# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces are shown, how, and what is counted of all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.tail.log_lines import as_dictionary
from otel_celery_launcher.tail.waterfall import error_of

if TYPE_CHECKING:
    from otel_celery_launcher.tail.traces import Trace
    from otel_celery_launcher.tail.waterfall import WaterfallRow


@dataclass(frozen=True, slots=True)
class Summary:
    """A trace in numbers."""

    spans: int
    runs: int
    errors: int
    lost: int
    orphans: (
        int  # runs without the span that caused them, and spans without their parent
    )
    open: int = 0  # publishes without a run

    @classmethod
    def of(cls, rows: list[WaterfallRow]) -> Summary:
        """Count the rows of a trace."""
        return cls(
            len(rows),
            sum(row.span.kind == "CONSUMER" for row in rows),
            sum(row.span.is_error for row in rows),
            sum(row.note == "LOST" for row in rows),
            sum(row.is_orphan or row.is_root_run for row in rows),
            sum(row.is_open for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a trace must have to be shown: all that is asked for."""

    task: str | None = None
    errors: bool = False
    slow: float | None = None  # seconds
    orphans: bool = False

    def fits(self, trace: Trace, summary: Summary) -> bool:
        """Return whether a trace is to be shown."""
        return (
            (not self.errors or summary.errors > 0)
            and (not self.orphans or summary.orphans > 0)
            and (self.slow is None or trace.seconds >= self.slow)
            and (self.task is None or _has_task(trace, self.task))
        )


def _has_task(trace: Trace, glob: str) -> bool:
    names = {str(span.attributes.get("celery.task_name", "")) for span in trace.spans}
    return any(fnmatchcase(name, glob) for name in names)


def counted(count: int, what: str) -> str:
    """Return ``1 span``, ``2 spans``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


class Totals:
    """Sums over all traces, each counted as it was when last shown.

    Attributes:
        refused: Requests that were invalid.
        cut: Traces that were shown before they were complete, for want of room.
        dropped: Spans that had no room, because the output stood still.
        records: Log records that came.
        apart: Those that are in no trace that has come.
    """

    def __init__(self) -> None:
        self._sums = Summary(0, 0, 0, 0, 0)
        self._traces = 0
        self.refused = self.cut = self.dropped = self.records = self.apart = 0

    def add(self, summary: Summary, before: Summary | None) -> None:
        """Count a trace.

        Args:
            summary: As it is now.
            before: As it was counted before, if it was.
        """
        old = before or Summary(0, 0, 0, 0, 0)
        self._traces += before is None
        self._sums = Summary(
            self._sums.spans + summary.spans - old.spans,
            self._sums.runs + summary.runs - old.runs,
            self._sums.errors + summary.errors - old.errors,
            self._sums.lost + summary.lost - old.lost,
            self._sums.orphans + summary.orphans - old.orphans,
            self._sums.open + summary.open - old.open,
        )

    def __str__(self) -> str:
        sums = self._sums
        share = sums.orphans / sums.spans if sums.spans else 0.0
        parts = [
            counted(self._traces, "trace"),
            counted(sums.spans, "span"),
            counted(sums.runs, "run"),
            counted(sums.errors, "error"),
            counted(sums.lost, "lost task"),
            f"{counted(sums.orphans, 'orphan')} ({share:.1%} of the spans)",
        ]
        if sums.open:
            parts.append(_without_run(sums.open))
        if self.records:
            apart = f" ({self.apart} in no trace that has come)" if self.apart else ""
            parts.append(counted(self.records, "log record") + apart)
        if self.refused:
            parts.append(f"{counted(self.refused, 'request')} refused")
        if self.cut:
            parts.append(f"{counted(self.cut, 'trace')} cut for want of room")
        if self.dropped:
            parts.append(f"{counted(self.dropped, 'span')} dropped")
        return ", ".join(parts)


def remarkable(summary: Summary) -> list[tuple[str, str]]:
    """Return what is remarkable about a trace: the text, and what it is of."""
    return [
        (counted(count, what), kind)
        for count, what, kind in (
            (summary.lost, "lost task", "error"),
            (summary.errors, "error", "error"),
            (summary.orphans, "orphan", "orphan"),
        )
        if count
    ]


def _without_run(count: int) -> str:
    """Return how many tasks have been published and not ended, as far as came."""
    return f"{counted(count, 'task')} not ended yet"


def headline(trace: Trace, summary: Summary) -> str:
    """Return the line above a trace."""
    services = len({span.service for span in trace.spans})
    parts = [
        f"trace {trace.trace_id}: {'again, ' if trace.times_shown > 1 else ''}"
        f"{counted(services, 'service')}",
        counted(summary.spans, "span"),
        f"{trace.seconds:.3f} s",
        *(text for text, _ in remarkable(summary)),
        *([_without_run(summary.open)] if summary.open else []),
        *([counted(len(trace.records), "log record")] if trace.records else []),
    ]
    return ", ".join(parts)


def as_json(trace: Trace, summary: Summary) -> str:
    """Return a trace as one line."""
    document: dict[str, Any] = {
        "trace_id": trace.trace_id,
        "seconds": trace.seconds,
        "errors": summary.errors,
        "lost": summary.lost,
        "orphans": summary.orphans,
        "open": summary.open,
        "times_shown": trace.times_shown,
        "spans": [
            {
                "name": row.span.name,
                "kind": row.span.kind,
                "service": row.span.service,
                "span_id": row.span.span_id,
                "parent_id": row.span.parent_id,
                "depth": row.depth,
                "start": row.span.start,
                "took": row.took,
                "waited": row.waited,
                "note": row.note,
                "status": row.span.status_text,
                "error": asdict(error_of(row.span)) if row.span.is_error else None,
                "place": error_of(row.span).place,
                "attributes": row.span.attributes,
                "logs": [as_dictionary(line) for line in row.lines],
            }
            for row in trace.rows
        ],
    }
    try:
        return json.dumps(document, default=repr, allow_nan=False)
    except ValueError:  # NaN and infinity are no JSON
        return json.dumps(_finite(document), default=repr)


def _finite(value: Any) -> Any:
    """Return a value whose numbers JSON has; the others as text, as OTLP writes them."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
