# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Collects a collector's answers to exports, which the exporters only log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.export_log import (
    EXPORT_LOGGER,
    ExportLogHandler,
    error_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.delivery.exporters import PreparedExporter


class Answers:
    """A context manager that records export results and the last failure."""

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
        # Discard what an abandoned call logs later.
        logging.getLogger(EXPORT_LOGGER).handlers[:] = [
            *self._handlers,
            logging.NullHandler(),
        ]

    @property
    def is_taken(self) -> bool:
        """Whether every export has been taken, and there was one."""
        return bool(self._results) and all(self._results)

    def export(self, exporter: PreparedExporter, items: Sequence[Any]) -> None:
        """Export by one of the exporters, and note what it answers."""
        try:
            self._results.append(exporter.export(items))
        except Exception as exc:  # noqa: BLE001 - older ones raise where nobody answers
            self.note_error(error_text(exc))
            self._results.append(False)

    def note_error(self, text: str) -> None:
        """Keep a failure; the last one counts."""
        self.last = text
