# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Redaction: spans without exception messages (OTEL_CELERY_EXCEPTION_MESSAGES=false).

It precedes each exporter, so it applies to every span: Celery's, the application's, and
those of other instrumentations. Runs where spans are exported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.ipc.span_decoder import map_span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

# Attributes, of a span or an event, that hold the text of an exception.
MESSAGES = frozenset({"exception.message", "celery.retry.reason"})
STACKTRACE = "exception.stacktrace"
SENSITIVE = MESSAGES | {STACKTRACE}

# First line of a stack trace; its frames are kept, any other line may be a message.
_HEADER = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'^ +File "[^"\n]+", line \d+, in [\w.<>]+$', re.MULTILINE)


def redact_exceptions(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Return the spans without the messages of exceptions."""
    return [
        span
        if _needs_no_redaction(span)
        else map_span(span, _redacted, str, _without_description)
        for span in spans
    ]


def _needs_no_redaction(span: ReadableSpan) -> bool:
    return not (span.events or span.links or span.status.description) and (
        SENSITIVE.isdisjoint(span.attributes or ())
    )


def _redacted(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = {
        key: value for key, value in (attributes or {}).items() if key not in MESSAGES
    }
    if STACKTRACE in kept:
        kept[STACKTRACE] = frames_of(str(kept[STACKTRACE]))
    return kept


def frames_of(stacktrace: str) -> str:
    """Return files, lines and functions of a traceback.

    A message or a note may contain lines that look like frames or like a whole
    traceback. So only lines before any message are kept: those of the first traceback,
    which belongs to the exception's cause if it has one.
    """
    traceback = stacktrace.partition(_HEADER)[2]
    lines = traceback.split("\n")
    end = next((i for i, line in enumerate(lines) if line[:1] != " "), len(lines))
    return "\n".join(_FRAME.findall("\n".join(lines[:end])))


def _without_description(_: str | None) -> None:
    return None
