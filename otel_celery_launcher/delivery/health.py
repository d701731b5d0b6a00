# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a signal's attempts. Runs in the thread that exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from otel_celery_launcher.delivery.answers import is_unsupported
from otel_celery_launcher.delivery.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.ipc.counter_rows import Figures, Row
    from otel_celery_launcher.signals import Signal

# A line is written when this number of exports in a row have failed: one says nothing
# yet, and where the collector is away, the line about spans says so.
SAID_FAILURES = 2


def unsupported(destination: str, signal: Signal, error: str) -> str:
    """Return that a collector does not take a signal.

    Args:
        destination: The collector, as it may be shown.
        signal: The signal.
        error: What it has answered.
    """
    return (
        f"{destination} takes no {signal.items} ({error}). Spans are not affected. Set"
        f" OTEL_{signal.name.upper()}_EXPORTER=none, or give the collector a pipeline"
        f" for {signal.name}"
    )


class Health(Protocol):
    """What is said of a signal's attempts, and where its items are counted."""

    def note_error(self, text: str) -> None:
        """An attempt has failed."""

    def count_exported(self, count: int) -> None:
        """The collector has taken items."""

    def note_failure(self) -> None:
        """A batch was given up."""


class MainHealth:
    """Of spans: what fails says that the collector is not reached.

    Args:
        row: The exporter process's row of the counters.
        figures: Of the signal in it.
    """

    def __init__(self, row: Row, figures: Figures) -> None:
        self._row = row
        self.count_exported = figures.add_exported
        self.note_error = row.note_error
        self.note_failure = row.note_failure


class SecondHealth:
    """Of log records: what fails is said by itself, once, unless spans fail as well.

    Args:
        signal: The signal.
        row: The exporter process's row of the counters, for the worker's log.
        figures: Of the signal, in the row of the process that exports.
        are_spans_failing: Whether a line about spans says what is wrong already.
    """

    def __init__(
        self,
        signal: Signal,
        row: Row,
        figures: Figures,
        are_spans_failing: Callable[[], bool],
    ) -> None:
        self._signal = signal
        self._row = row
        self._figures = figures
        self._are_spans_failing = are_spans_failing
        self._failures = 0
        self._is_said = False

    def note_error(self, text: str) -> None:
        """An attempt has failed; the second one in a row is said."""
        self._failures += 1
        self._row.note_logs_fail(True)
        if self._failures < SAID_FAILURES or self._is_said or self._are_spans_failing():
            return
        self._is_said = True
        items = self._signal.items
        if is_unsupported(text):
            self._row.note_notice(unsupported("the collector", self._signal, text))
            return
        reason, advice, _ = explain(text, self._signal.path)
        self._row.note_notice(
            f"{items} do not reach the collector: {reason}. Spans are not affected."
            f" {advice[:1].upper()}{advice[1:]}"
        )

    def note_failure(self) -> None:
        """A batch was given up: ``note_error`` has said why."""

    def count_exported(self, count: int) -> None:
        """The collector has taken items."""
        self._figures.add_sent(count)
        self._failures = 0
        self._row.note_logs_fail(False)
        if self._is_said:
            self._is_said = False
            self._row.note_notice(f"{self._signal.items} reach the collector again")
