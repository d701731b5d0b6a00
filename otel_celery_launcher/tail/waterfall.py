# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a trace in their places: below what caused them, with what is remarkable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_celery_launcher.tail.log_lines import by_span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from otel_celery_launcher.receiver.logs import ReceivedLog
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from otel_celery_launcher.tail.log_lines import LogLine

# A value above this, or below zero, is not a wait but an unrelated attribute.
MAX_SECONDS = 1e9

# A frame of a stack trace, as ``traceback`` writes it.
_FRAME = re.compile(r'^ *File "([^"\n]+)", line (\d+)', re.MULTILINE)

_FOLDER = re.compile(r"^.*[/\\]")

# Frames of installed packages and of Python: the application's own says more.
_NOT_ITS_OWN = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3)[^\n]*")


@dataclass(frozen=True, slots=True)
class WaterfallRow:
    """One span in its place: times in seconds, start relative to the trace."""

    span: ReceivedSpan
    start: float
    took: float
    waited: float | None  # seconds in broker and worker; None where that is not known
    depth: int  # 0 for a root
    is_orphan: bool  # its parent has not come
    is_open: bool = False  # a publish whose run has not ended, or not come
    lines: tuple[LogLine, ...] = ()  # that were logged in it

    @property
    def note(self) -> str:
        """What is remarkable about it, in a word, or nothing."""
        span = self.span
        if span.attributes.get("celery.lost"):
            return "LOST"
        if span.is_error:
            return "ERROR"
        if self.is_orphan:
            return "ORPHAN"
        if self.is_root_run:
            return "ROOT"
        if "celery.retry.reason" in span.attributes:
            return "retry"
        return "open" if self.is_open else ""

    @property
    def is_root_run(self) -> bool:
        """Whether it is the run of a task that nobody seems to have published."""
        span = self.span
        return span.kind == "CONSUMER" and not (span.parent_id or span.links)

    @property
    def reason(self) -> str:
        """Why it failed, was lost, or is run again; empty where nobody says so."""
        span = self.span
        if span.is_error:
            return error_of(span).summary
        return str(span.attributes.get("celery.retry.reason", ""))

    @property
    def place(self) -> str:
        """File and line that raised, if it failed and says so."""
        return error_of(self.span).place if self.span.is_error else ""


@dataclass(frozen=True, slots=True)
class SpanError:
    """The last exception that a span has recorded, or what its status says."""

    type: str
    message: str
    stack: str

    @property
    def summary(self) -> str:
        """Type and message, on one line."""
        message = " ".join(self.message.split())
        name = self.type.rpartition(".")[2]
        if not name or message.startswith(name):
            return message or name
        return f"{name}: {message}" if message else name

    @property
    def place(self) -> str:
        """File and line that raised it: the innermost one of the application's."""
        frames = _FRAME.findall(self.stack)
        own = [each for each in frames if not _NOT_ITS_OWN.search(each[0])]
        if not frames:
            return ""
        file, line = (own or frames)[-1]
        return f"{_FOLDER.sub('', file)}:{line}"


def error_of(span: ReceivedSpan) -> SpanError:
    """Return why a span failed, as far as it says so."""
    recorded = [each for name, each in span.events if name == "exception"]
    event = recorded[-1] if recorded else {}
    kind = event.get("exception.type") or span.attributes.get("error.type") or ""
    message = event.get("exception.message", span.status_text) or span.status_text
    return SpanError(
        str(kind), str(message), str(event.get("exception.stacktrace", ""))
    )


def arrange(
    spans: Sequence[ReceivedSpan],
    linked: Collection[str] = (),
    records: Iterable[ReceivedLog] = (),
) -> list[WaterfallRow]:
    """Return the rows of one trace: children under parents, by start.

    A span that came twice is shown once; spans that are each other's parents, all the
    same.

    Args:
        spans: Of one trace.
        linked: Ids of publishes whose runs are in traces of their own.
        records: Log records of the trace.
    """
    by_id = {span.span_id: span for span in spans}
    children = _children(by_id)
    first = min((span.start for span in spans), default=0.0)
    rows: dict[str, WaterfallRow] = {}
    roots = [*children.get("", []), *by_id.values()]  # most others are below
    lines = by_span(records, [span.span_id for span in roots], first)
    todo = [(span, 0) for span in reversed(roots)]
    while todo:
        span, depth = todo.pop()
        if span.span_id in rows:
            continue
        parent = by_id.get(span.parent_id)
        below = children.get(span.span_id, [])
        rows[span.span_id] = WaterfallRow(
            span,
            span.start - first,
            span.end - span.start,
            _wait(span, parent),
            depth,
            is_orphan=bool(span.parent_id) and parent is None,
            is_open=is_publish(span) and not below and span.span_id not in linked,
            lines=lines.get(span.span_id, ()),
        )
        todo += [(child, depth + 1) for child in reversed(below)]
    return list(rows.values())


def _children(by_id: dict[str, ReceivedSpan]) -> dict[str, list[ReceivedSpan]]:
    """Return the spans below each span, by start; those below none that is there by ""."""
    children: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(by_id.values(), key=lambda span: span.start):
        above_id = span.parent_id if span.parent_id in by_id else ""
        children.setdefault(above_id, []).append(span)
    return children


def is_publish(span: ReceivedSpan) -> bool:
    """Return whether a run is to follow."""
    return span.kind == "PRODUCER" and not span.is_error


def _wait(span: ReceivedSpan, parent: ReceivedSpan | None) -> float | None:
    """Return how long a task waited, as its run has it: a countdown is no wait.

    Where a run says nothing (of another instrumentation): from the end of its publish.
    """
    if span.kind != "CONSUMER":
        return None
    waits = [
        span.attributes.get(f"celery.wait.{where}") for where in ("broker", "worker")
    ]
    measured = [
        wait for wait in waits if isinstance(wait, float) and 0 <= wait <= MAX_SECONDS
    ]
    if measured:
        return sum(measured)
    if parent is not None and parent.kind == "PRODUCER":
        return max(0.0, span.start - parent.end)
    return None
