# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Log records of a trace: each below the span in which it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.receiver.spans import memory_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_celery_launcher.receiver.logs import ReceivedLog

# Numbers of the data model from which on a record is one of these
# (https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber).
WARNING, ERROR = 13, 17

_TASK_ID = re.compile(r"\[([0-9a-f]{8})-[0-9a-f-]{27}\]")

_SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log record.

    Attributes:
        record: As it came.
        start: Seconds since the trace began; below zero for one that came before.
    """

    record: ReceivedLog
    start: float

    @property
    def severity(self) -> str:
        """Its name, or that of its number."""
        record = self.record
        if record.severity_text:
            return record.severity_text
        number = (record.severity - 1) // 4
        return _SEVERITIES[number] if 0 <= number < len(_SEVERITIES) else ""

    @property
    def text(self) -> str:
        """Message, and the exception if the message does not name it, on one line."""
        record = self.record
        body = "" if record.body is None else str(record.body)
        if record.event:
            body = f"{record.event} {body}".rstrip()
        kind = str(record.attributes.get("exception.type", "")).rpartition(".")[2]
        if kind and kind not in body:
            message = record.attributes.get("exception.message", "")
            body = f"{body} ({kind}: {message})" if message else f"{body} ({kind})"
        return " ".join(body.split())

    @property
    def brief(self) -> str:
        """The text without most of the ids in brackets, which Celery writes of tasks."""
        return _TASK_ID.sub(r"[\1…]", self.text)

    @property
    def stack(self) -> str:
        """The stack trace of its exception; empty without one."""
        return str(self.record.attributes.get("exception.stacktrace", ""))


def size_of(record: ReceivedLog) -> int:
    """Return about how many bytes a record takes; its resource is its request's."""
    return memory_bytes_of(record.body, record.attributes, record.logger, record.event)


def by_span(
    records: Iterable[ReceivedLog], spans: Sequence[str], first: float
) -> dict[str, tuple[LogLine, ...]]:
    """Return the lines of each span, in order of time.

    Args:
        records: Of one trace. Those of a span that has not come are the first span's.
        spans: Ids of the spans.
        first: When the trace began; seconds since the epoch.
    """
    if not spans:
        return {}
    known = set(spans)
    lines: dict[str, list[LogLine]] = {}
    # An exporter sends again what was taken too late.
    once = {
        (each.time, each.span_id, each.logger, each.event, str(each.body)): each
        for each in records
    }
    for record in sorted(once.values(), key=lambda record: record.time):
        place = record.span_id if record.span_id in known else spans[0]
        lines.setdefault(place, []).append(LogLine(record, record.time - first))
    return {span_id: tuple(each) for span_id, each in lines.items()}


def last(lines: Sequence[LogLine], limit: int) -> tuple[Sequence[LogLine], int]:
    """Return the last lines, and how many are left out: the end says why."""
    left_out = max(0, len(lines) - limit)
    return lines[left_out:], left_out


def as_dictionary(line: LogLine) -> dict[str, Any]:
    """Return a line for JSON."""
    record = line.record
    return {
        "start": line.start,
        "severity": line.severity,
        "logger": record.logger,
        "body": record.body,
        "event": record.event,
        "attributes": record.attributes,
    }
