# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An exporter behind the SDK's queue whose results are counted (inline export)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.export_log import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.delivery.health import Health
    from otel_celery_launcher.ipc.counter_rows import Figures
    from otel_celery_launcher.routes.route import Exporter

_thread = threading.local()


def is_exporting() -> bool:
    """Return whether this thread is inside an export of ours."""
    return getattr(_thread, "health", None) is not None


def note_error(text: str) -> None:
    """Note what the exporter of this thread has logged."""
    health: Health | None = getattr(_thread, "health", None)
    if health is not None:
        health.note_error(text)


class CountingExporter:
    """What the SDK's queue exports to: an exporter whose results are counted.

    Args:
        exporter: The exporter that sends.
        figures: Those of the signal, in this process's row of the counters.
        health: Gets what becomes of attempts.
        after: Called after each export, in the exporting thread.
    """

    def __init__(
        self,
        exporter: Exporter,
        figures: Figures,
        health: Health,
        after: Callable[[], None],
    ) -> None:
        self._exporter = exporter
        self._figures = figures
        self._health = health
        self._after = after
        self.handled = 0  # items whose fate is known, delivered or not

    def export(self, items: Sequence[Any]) -> None:
        """Send a batch; a failure is counted and kept, never raised."""
        _thread.health = self._health
        try:
            is_taken = self._exporter.export(items)
        except Exception as exc:  # noqa: BLE001 - any exporter; counted and reported
            self._health.note_error(error_text(exc))
            is_taken = False
        finally:
            _thread.health = None
        if is_taken:
            self._health.count_exported(len(items))
        else:
            self._figures.add_failed(len(items))
            self._health.note_failure()
        self.handled += len(items)
        self._after()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: nothing is held here."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Close the exporter's connection."""
        self._exporter.shutdown()
