# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""No message of an exception leaves (OTEL_CELERY_EXCEPTION_MESSAGES=false).

In front of each exporter, so that every span passes it, whoever made it: Celery's, the
application's, another instrumentation's. Runs where spans are exported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.around import ExporterAround
from otel_celery_launcher.ipc.span_decoder import rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

# Attributes, of a span or an event, that hold the text of an exception.
MESSAGES = frozenset({"exception.message", "celery.retry.reason"})
STACKTRACE = "exception.stacktrace"
_TELLING = MESSAGES | {STACKTRACE}

# What is kept of a stack trace: every other line may be a message's.
_HEADER = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'^ +File "[^"\n]+", line \d+, in [\w.<>]+$', re.MULTILINE)


class WithoutMessages(ExporterAround):
    """An exporter that is given spans without the messages of exceptions."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        return self._exporter.export(
            [
                span if _is_silent(span) else rewritten(span, _shown, str, _nothing)
                for span in spans
            ]
        )


def _is_silent(span: ReadableSpan) -> bool:
    return not (span.events or span.links or span.status.description) and (
        _TELLING.isdisjoint(span.attributes or ())
    )


def _shown(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    shown = {
        key: value for key, value in (attributes or {}).items() if key not in MESSAGES
    }
    if STACKTRACE in shown:
        shown[STACKTRACE] = _frames(str(shown[STACKTRACE]))
    return shown


def _frames(stacktrace: str) -> str:
    """Return files, lines and functions of a traceback.

    A message, or a note, may hold lines that look like frames, or like a whole traceback. So
    only lines are believed that no message comes before: those of the first traceback, which
    is that of the cause where there is one.
    """
    traceback = stacktrace.partition(_HEADER)[2]
    lines = traceback.split("\n")
    end = next((i for i, line in enumerate(lines) if line[:1] != " "), len(lines))
    return "\n".join(_FRAME.findall("\n".join(lines[:end])))


def _nothing(_: str | None) -> None:
    return None
