# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""One exporter of metrics, and what its collector has taken so far.

Runs in the process that exports. What a successor has to know lies in the page: whether
the collector takes metrics at all, and with delta temporality what it has taken. That is
written after its answer, so a process that is killed between the two makes an interval
come twice, and never makes one miss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from otel_celery_launcher.delivery.answers import (
    CANNOT_BE_SENT,
    TAKEN,
    Answer,
    Verdict,
)
from otel_celery_launcher.delivery.export_log import error_text
from otel_celery_launcher.delivery.failures import explain
from otel_celery_launcher.delivery.health import unsupported
from otel_celery_launcher.metrics.layout import (
    HISTOGRAM_WORDS,
    Description,
    Kind,
    key_of,
)
from otel_celery_launcher.metrics.page import EXPORTER
from otel_celery_launcher.metrics.page_head import (
    FAILURES,
    REACHED,
    SAID,
    UNSUPPORTED,
)
from otel_celery_launcher.metrics.reader import Total
from otel_celery_launcher.metrics.writer import VOID_CELLS, Writer
from otel_celery_launcher.signals import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.points import Chunk, PointMaker
    from otel_celery_launcher.metrics.reader import Totals

# A collector that takes no metrics is asked again after this time.
UNSUPPORTED_SECONDS = 600.0

# When deltas were last taken: its time.
_LAST = Description(Kind.GAUGE, "otel_celery.taken")

# What OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE makes of each kind
# (https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/#additional-environment-variable-configuration).
_DELTA_KINDS = {
    "cumulative": frozenset[Kind](),
    "lowmemory": frozenset({Kind.COUNTER, Kind.HISTOGRAM, Kind.EXPONENTIAL}),
    "delta": frozenset(
        {
            Kind.COUNTER,
            Kind.HISTOGRAM,
            Kind.EXPONENTIAL,
            Kind.OBSERVED_COUNTER,
            Kind.ABSOLUTE,
        }
    ),
}


class Exporter(Protocol):
    """An exporter of the SDK, prepared: ``delivery/exporters.py``."""

    def send(self, items: Any) -> Answer:
        """Send ``MetricsData``; return what the collector has answered."""

    def shutdown(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What is said of exports in the worker's log.

    Attributes:
        destination: Where metrics go, as it may be shown.
        path: The URL path there.
    """

    destination: str = ""
    path: str = ""

    def unsupported(self, error: str) -> str:
        """Return that the collector takes no metrics."""
        return unsupported(self.destination, METRICS, error)

    def failing(self, error: str) -> str:
        """Return that metrics do not arrive."""
        reason, advice, _ = explain(error, self.path)
        return (
            f"metrics do not reach {self.destination}: {reason}. No count is lost: the"
            f" next export that arrives has them all. {advice[:1].upper()}{advice[1:]}."
        )

    @property
    def full(self) -> str:
        """That there is no room for further series."""
        return (
            "the memory for metrics is full: further sets of attributes are counted"
            " together (otel.metric.overflow). Give your metrics fewer attributes"
        )

    @property
    def again(self) -> str:
        """That they do."""
        return f"metrics reach {self.destination} again"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricConfig:
    """How metrics are exported.

    Attributes:
        interval: Seconds between two exports.
        temporality: ``cumulative``, ``delta`` or ``lowmemory``; for OTLP.
        texts: What is said of it.
    """

    interval: float
    temporality: str = "cumulative"
    texts: Texts = field(default_factory=Texts)


class Destination:
    """One exporter and what becomes of its exports.

    Args:
        page: The page; keeps what the collector has answered, for a successor.
        number: Of the exporter.
        name: Its entry point name.
        make: Makes it, in the thread that exports.
        config: How metrics are exported.
    """

    def __init__(
        self,
        page: MetricPage,
        number: int,
        name: str,
        make: Callable[[], Exporter],
        config: MetricConfig,
    ) -> None:
        self._page = page
        self._number = number
        self._make = make
        self._state = page.state(number)
        # Exporters that are none of OTLP show totals, and want them.
        temporality = config.temporality if name.startswith("otlp_") else "cumulative"
        self._deltas = _DELTA_KINDS[temporality]
        self._exporter: Exporter | None = None
        self._taken: TakenRows | None = None

    @property
    def is_off(self) -> bool:
        """Whether its collector has said that it takes no metrics, not long ago."""
        since = self._state[UNSUPPORTED]
        elapsed = (time.monotonic_ns() - since) / 1e9
        return bool(since) and elapsed < UNSUPPORTED_SECONDS

    @property
    def was_reached(self) -> bool:
        """Whether its collector has ever taken anything."""
        return bool(self._state[REACHED])

    @property
    def failures(self) -> int:
        """How many exports in a row have failed."""
        return self._state[FAILURES]

    def export(
        self, totals: Totals, resource: Resource, now: int
    ) -> tuple[Answer, int]:
        """Export the totals; return the last answer, and how many points were taken.

        Args:
            totals: Of each instrument.
            resource: Whose they are.
            now: Nanoseconds since the epoch.
        """
        from otel_celery_launcher.metrics.points import PointMaker

        exporter = self.prepare()
        if isinstance(exporter, Answer):
            self._note_failure(exporter)
            return exporter, 0
        deltas = frozenset(each for each in totals if each.kind in self._deltas)
        shown, since = totals, 0
        if self._deltas:
            if self._taken is None:
                self._taken = TakenRows(self._page, self._number)
            shown, since = self._taken.since(totals, deltas)
        started = self._page.started
        maker = PointMaker(resource, now, started, deltas, since or started)
        sent = 0
        for chunks in maker.requests(shown):
            answer, count = self._send(exporter, maker, chunks)
            sent += count
            if answer.verdict is not Verdict.TAKEN:
                self._note_failure(answer)
                return answer, sent
            if self._taken is not None:
                self._taken.note(totals, chunks, deltas)
        self._state[UNSUPPORTED] = self._state[FAILURES] = 0
        self._state[REACHED] = 1
        if self._taken is not None:
            self._taken.note_time(now)
        return TAKEN, sent

    def _send(
        self, exporter: Exporter, maker: PointMaker, chunks: list[Chunk]
    ) -> tuple[Answer, int]:
        """Send a request; one that is too large, or that cannot be encoded, in parts.

        A single point that cannot be sent is given up: it would keep all others.
        """
        from otel_celery_launcher.metrics.points import count_of, halves

        answer = exporter.send(maker.data(chunks))
        if answer.verdict is Verdict.TAKEN:
            return answer, count_of(chunks) - min(count_of(chunks), answer.rejected)
        is_divided = answer.verdict is Verdict.TOO_LARGE or answer.error.startswith(
            CANNOT_BE_SENT
        )
        if not is_divided:
            return answer, 0
        sent = 0
        for part in halves(chunks):
            answer, count = self._send(exporter, maker, part)
            sent += count
            if answer.verdict is not Verdict.TAKEN:
                return answer, sent
        return TAKEN, sent

    def prepare(self) -> Exporter | Answer:
        """Return the exporter, made now if it was not before; or why it cannot be made."""
        if self._exporter is None:
            try:
                self._exporter = self._make()
            except Exception as exc:  # noqa: BLE001 - any exporter's constructor
                return Answer(Verdict.REFUSED, f"cannot be made: {error_text(exc)}")
        return self._exporter

    def _note_failure(self, answer: Answer) -> None:
        self._state[FAILURES] += 1
        since = time.monotonic_ns() if answer.is_unsupported else 0
        self._state[UNSUPPORTED] = since

    def is_said(self, *, is_failing: bool) -> bool:
        """Return whether the log says that exports fail, and note what it says now."""
        said, self._state[SAID] = self._state[SAID], int(is_failing)
        return bool(said)

    def shutdown(self) -> None:
        """Close the connection, and leave what was taken to a successor."""
        if self._exporter is not None:
            self._exporter.shutdown()
        if self._taken is not None:
            self._taken.release()
            self._taken = None


class TakenRows:
    """What an exporter's collector has taken so far, in rows of the page.

    Args:
        page: The page.
        number: Of the exporter.
    """

    def __init__(self, page: MetricPage, number: int) -> None:
        self._values, self._words = page.values, page.words
        self._writer = Writer(page, EXPORTER + number)

    def since(
        self, totals: Totals, deltas: frozenset[Description]
    ) -> tuple[Totals, int]:
        """Return what is to be exported, and since when its deltas count (0: the start).

        A series for which the page has no room is left out: its delta is not known.
        """
        shown: Totals = {}
        for description, series in totals.items():
            if description not in deltas:
                shown[description] = series
                continue
            changed: dict[bytes, Total] = {}
            for key, total in series.items():
                before = self._before(description, total)
                delta = None if before is None else total.minus(before)
                if delta is not None and not delta.is_nothing:
                    changed[key] = delta
            shown[description] = changed
        cells, _ = self._writer.cells(_LAST, ())
        return shown, self._words[cells + 1]

    def note(
        self, totals: Totals, chunks: list[Chunk], deltas: frozenset[Description]
    ) -> None:
        """Keep what was taken of a request."""
        for description, taken in chunks:
            if description not in deltas:
                continue
            for delta in taken:
                total = totals[description][key_of(description, delta.items)]
                cells, _ = self._writer.cells(description, delta.items)
                first = cells + HISTOGRAM_WORDS
                for number, count in enumerate(total.buckets):
                    self._values[first + number] = count
                self._values[cells] = total.value

    def note_time(self, now: int) -> None:
        """Keep when all was taken: the next deltas count from there."""
        cells, _ = self._writer.cells(_LAST, ())
        self._words[cells + 1] = now

    def release(self) -> None:
        """Leave the row to another process: this one goes on, and exports no more."""
        self._writer.release()

    def _before(self, description: Description, total: Total) -> Total | None:
        cells, _ = self._writer.cells(description, total.items)
        if cells == VOID_CELLS:
            return None
        first = cells + HISTOGRAM_WORDS
        buckets = list(self._values[first : first + len(total.buckets)])
        return Total(total.items, total.created, self._values[cells], buckets=buckets)
