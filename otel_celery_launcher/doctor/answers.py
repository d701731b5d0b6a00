# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a collector answers to an export: the exporters only log it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExportResult

from otel_celery_launcher.delivery.around import ExporterAround
from otel_celery_launcher.delivery.export_log import (
    EXPORT_LOGGER,
    ExportLogHandler,
    error_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter


class Answers:
    """Keeps results and the last failure while it is entered."""

    def __init__(self) -> None:
        self.last = ""
        self._results: list[bool] = []
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Answers:
        logger = logging.getLogger(EXPORT_LOGGER)
        self._handlers = list(logger.handlers)
        ExportLogHandler(self.note_error).install()
        return self

    def __exit__(self, *_: Any) -> None:
        # What is logged by a call that nobody waits for any more goes nowhere.
        logging.getLogger(EXPORT_LOGGER).handlers[:] = [
            *self._handlers,
            logging.NullHandler(),
        ]

    def watch(self, exporter: SpanExporter) -> SpanExporter:
        """Return the exporter, its results noted."""
        return _Watched(exporter, self)

    @property
    def is_taken(self) -> bool:
        """Whether every export has been taken, and there was one."""
        return bool(self._results) and all(self._results)

    def note_result(self, result: SpanExportResult) -> None:
        """Note what an export has returned."""
        self._results.append(result is SpanExportResult.SUCCESS)

    def note_error(self, text: str) -> None:
        """Keep a failure; the last one counts."""
        self.last = text


class _Watched(ExporterAround):
    def __init__(self, exporter: SpanExporter, answers: Answers) -> None:
        super().__init__(exporter)
        self._answers = answers

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as exc:  # older exporters raise where nobody answers
            self._answers.note_error(error_text(exc))
            raise
        self._answers.note_result(result)
        return result
