# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a collector answers to an export: the exporters only log it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_celery_launcher.exporter.reporter import EXPORT_LOGGER, ExportLogHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan


class Answers:
    """Keeps results and the last failure while it is entered."""

    def __init__(self) -> None:
        self.last = ""
        self.is_taken = False
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Answers:
        logger = logging.getLogger(EXPORT_LOGGER)
        self._handlers = list(logger.handlers)
        ExportLogHandler(self._note).install()
        return self

    def __exit__(self, *_: Any) -> None:
        logging.getLogger(EXPORT_LOGGER).handlers[:] = self._handlers

    def watch(self, exporter: SpanExporter) -> SpanExporter:
        """Return the exporter, its results noted."""
        return _Watched(exporter, self)

    def _note(self, text: str) -> None:
        self.last = text


class _Watched(SpanExporter):
    def __init__(self, exporter: SpanExporter, answers: Answers) -> None:
        self._exporter = exporter
        self._answers = answers

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._answers.is_taken = result is SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
