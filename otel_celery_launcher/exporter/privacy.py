# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""No message of an exception leaves (OTEL_CELERY_EXCEPTION_MESSAGES=false).

In front of each exporter, so that every span passes it, whoever made it: Celery's, the
application's, another instrumentation's. Runs where spans are exported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.exporter.around import ExporterAround
from otel_celery_launcher.exporter.rebuild import rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

# Attributes, of a span or an event, that hold the text of an exception.
MESSAGES = frozenset({"exception.message", "celery.retry.reason"})
STACKTRACE = "exception.stacktrace"
_TELLING = MESSAGES | {STACKTRACE}

# What is kept of a stack trace: every other line may be a message's.
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
        shown[STACKTRACE] = "\n".join(_FRAME.findall(str(shown[STACKTRACE])))
    return shown


def _nothing(_: str | None) -> None:
    return None
