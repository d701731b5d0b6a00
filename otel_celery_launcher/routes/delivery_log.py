# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Log lines about delivery: at most one per minute, and one at recovery.

Errors of exporters are kept in the shared counters (``delivery/export_log.py``). The
main process alone writes lines about them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from otel_celery_launcher import messages
from otel_celery_launcher.delivery.failures import explain
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.settings.checks import printable, safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.process_claim import ProcessClaim
    from otel_celery_launcher.signals import Signal

# A collector that is down for a night leaves some hundred lines, not a full disk.
SECONDS_BETWEEN_LINES = 60.0


# What is said of items that were refused as poisoned: ``exporter_process/attempts.py``.
_REFUSED_ADVICE = "look at the log of the collector for what is wrong with them"


class _Pace:
    """Lets a line through once in ``SECONDS_BETWEEN_LINES``.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None

    def take(self) -> bool:
        """Return whether a line may be written now; it is, then."""
        now = self._clock()
        if self._last is not None and now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class DeliveryLog:
    """Writes the lines about one signal; only in the main process.

    Args:
        signal: The signal.
        counters: The shared page.
        main: Which process is the main one.
        destination: Where its items go, for the text.
        path: The path there, as it may be shown.
        spool: The spool directory; empty for none.
        clock: Monotonic seconds.
        also: Signals of whose items it is only said how many were lost.
    """

    def __init__(
        self,
        signal: Signal,
        counters: Counters,
        main: ProcessClaim,
        destination: str,
        path: str = "",
        spool: str = "",
        clock: Callable[[], float] = time.monotonic,
        *,
        also: Sequence[Signal] = (),
    ) -> None:
        self._also = dict.fromkeys(also, 0)
        self._also_pace = _Pace(clock)
        self._refused: dict[Signal, int] = {}  # lost, when they were last not taken
        self._items = signal.items
        self._totals = counters.of(signal)
        self._counters = counters
        self._main = main
        self._destination = destination
        self._path = path or signal.path
        self._spool = printable(spool)
        self._notice_said = ""
        self._exporter = counters.rows[EXPORTER_ROW].of(signal)
        self._refused_said = 0
        self._pace = _Pace(clock)
        self._is_failing = False
        self._lost_said = 0
        self._left_out_said = 0
        self._left_out_pace = _Pace(clock)

    def poll(self) -> None:
        """Write a line if one is due. Called by timers and after each export."""
        if not self._main.is_this():
            return
        if self._counters.is_failing:
            self._report_failure()
        elif self._is_failing:
            self._report_recovery()
        elif self._totals.lost > self._lost_said and self._pace.take():
            self._report_loss(" so far")
        if self._counters.left_out > self._left_out_said:
            self._report_left_out()
        self._report_notice()
        if self._counters.rows[EXPORTER_ROW].logs_fail:
            self._note_refused()
        elif self._has_lost_others() and self._also_pace.take():
            self._report_losses_of_others(" so far")

    def report_end(self) -> None:
        """Write the last line, due or not, if items were lost that no line has said.

        Called when all is sent or lost, by the main process.
        """
        if not self._main.is_this():
            return
        self._report_notice()
        if self._totals.lost > self._lost_said:
            self._report_loss("")
        self._report_losses_of_others("")
        if self._counters.rows[EXPORTER_ROW].spools and self._totals.queued:
            messages.log(
                f"{self._totals.queued} {self._items} for {self._destination} wait in"
                f" {self._spool}. The next worker with this spool directory sends them,"
                f" and so does: otel-celery spool --send {self._spool}"
            )
        if self._counters.left_out > self._left_out_said:
            self._say_left_out()

    def _report_failure(self) -> None:
        if not self._pace.take():
            return
        self._is_failing = True
        self._lost_said = self._totals.lost
        failure = explain(self._counters.error, self._path)
        messages.log(
            f"{self._items} do not reach {self._destination}: {failure.reason}."
            f" {self._lost_said} lost so far; tasks are not affected."
            f" {_as_sentence(failure.advice)}"
        )

    def _report_recovery(self) -> None:
        self._is_failing = False
        self._lost_said = self._totals.lost
        why = ""
        if refused := self._take_refused():
            why = (
                f" {refused} of them were refused by the collector, which takes others"
                f" ({self._counters.error}). {_as_sentence(_REFUSED_ADVICE)}"
            )
        messages.log(
            f"{self._items} reach {self._destination} again; {self._lost_said} were lost."
            f"{why}"
        )

    def _report_loss(self, so_far: str) -> None:
        self._lost_said = self._totals.lost
        if self._take_refused() and not self._counters.is_failing:
            why = (
                "they were refused by the collector, which takes others"
                f" ({self._counters.error})"
            )
            advice = _REFUSED_ADVICE
        elif self._counters.is_failing:
            reason, advice, _ = explain(self._counters.error, self._path)
            why = f"they do not reach {self._destination}: {reason}"
        else:
            why = "they could not be delivered in time"
            advice = (
                "raise OTEL_BSP_MAX_QUEUE_SIZE or OTEL_CELERY_SHUTDOWN_SECONDS, or lower"
                " the sampling ratio"
            )
        messages.log(
            f"{self._lost_said} {self._items} lost{so_far}: {why}. {_as_sentence(advice)}"
        )

    def _has_lost_others(self) -> bool:
        return any(
            self._counters.of(signal).lost > said for signal, said in self._also.items()
        )

    def _note_refused(self) -> None:
        """Note what is lost while the collector does not take it: a line has said so."""
        self._refused = {each: self._counters.of(each).lost for each in self._also}

    def _report_losses_of_others(self, so_far: str) -> None:
        for signal, said in self._also.items():
            lost = self._counters.of(signal).lost
            if lost <= said:
                continue
            self._also[signal] = lost
            if self._counters.rows[EXPORTER_ROW].logs_fail:
                why = "the collector does not take them"
            elif lost <= self._refused.get(signal, 0):
                why = "the collector did not take them"
            else:
                why = (
                    "they could not be delivered in time. Let fewer leave:"
                    " OTEL_PYTHON_LOG_HANDLER_LEVEL=warning"
                )
            messages.log(
                f"{lost} {signal.items} lost{so_far}; spans are not affected: {why}"
            )

    def _take_refused(self) -> int:
        """Return how many items were refused, which no line has said (exporter process)."""
        refused = self._exporter.failed - self._refused_said
        self._refused_said += refused
        return refused

    def _report_notice(self) -> None:
        """Write what the exporter process has to say, once."""
        notice = self._counters.rows[EXPORTER_ROW].notice
        if notice != self._notice_said:
            self._notice_said = notice
            messages.log(notice)

    def _report_left_out(self) -> None:
        if self._left_out_pace.take():
            self._say_left_out()

    def _say_left_out(self) -> None:
        self._left_out_said = self._counters.left_out
        messages.log(
            f"{self._left_out_said} traces left out so far, too many a second begin in"
            f" one process; the last with {safe_repr(self._counters.left_out_name)}. Begin"
            " fewer, or set OTEL_CELERY_ROOT_SPANS_PER_SECOND to what you want"
        )


def _as_sentence(advice: str) -> str:
    return f"{advice[0].upper()}{advice[1:]}."
