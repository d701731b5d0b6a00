# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of tasks: their runs, waits and publishes, and those that never run.

Runs where a task runs or is published, at the places that make the spans, but for every
task, sampled or not. The series of a task are looked up once and then only added to.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.ipc.in_flight import ENDING
from otel_celery_launcher.ipc.span_frames import (
    COUNTED,
    COUNTED_START,
    encode_counted_run,
)
from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.metrics.instruments import (
    Exemplars,
    add_to_histogram,
    write_exemplar,
)
from otel_celery_launcher.metrics.killed import record_killed_run
from otel_celery_launcher.metrics.layout import (
    EXEMPLAR_WORDS,
    EXPONENT_EXEMPLARS,
    HISTOGRAM_WORDS,
    Description,
    exponential_bucket,
)
from otel_celery_launcher.tasks.destination import (
    broker_of,
    destination_name,
    destination_of_delivery,
)
from otel_celery_launcher.tasks.errors import error_type_of
from otel_celery_launcher.tasks.metric_names import ERRORS_PER_TASK, NAMES, BoundedNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from otel_celery_launcher.ipc.span_frames import CountedRun
    from otel_celery_launcher.metrics.writer import Writer


class _Cells(NamedTuple):
    """The cells of one series, and how to find a bucket and an exemplar's place."""

    cells: int
    boundaries: tuple[float, ...]
    first_exemplar: int
    is_final: bool = True


class _RunCells(NamedTuple):
    """The series of runs with one outcome: duration, waits, contrib's histogram."""

    delivery: object  # of the messages that these are for
    histograms: tuple[_Cells, ...]


class _PublishCells(NamedTuple):
    duration: _Cells
    sent: _Cells


class _Received(NamedTuple):
    """The series of the messages of one task, while all come from one place."""

    app: Any
    delivery: object
    cells: int


class _Counted(NamedTuple):
    """What the record of a run in flight has in common with others."""

    delivery: object
    payload: bytes


class TaskMetrics:
    """Records what tasks do.

    Args:
        writer: Of the process.
        exemplars: Which runs may become exemplars.
        has_exponents: Whether histograms have buckets that grow with the values.
        older: The histogram of the contrib instrumentation; None leaves it out.
    """

    def __init__(
        self,
        writer: Writer,
        exemplars: Exemplars,
        *,
        has_exponents: bool = False,
        older: Description | None = None,
    ) -> None:
        self._writer = writer
        self._exemplars = exemplars
        self._has_exponents = has_exponents
        self._older = older
        self._runs: dict[tuple[str, str, str], _RunCells] = {}
        self._publishes: dict[tuple[str, Any, str], _PublishCells] = {}
        self._received: dict[str, _Received] = {}
        self._counted: dict[str, _Counted] = {}
        self._series: dict[tuple[Any, ...], _Cells] = {}
        self._names = BoundedNames()
        writer.on_new_process(self._forget)

    def _forget(self) -> None:
        """Forget the cells of another process; names stay bounded as they are."""
        for known in (self._runs, self._publishes, self._received, self._series):
            known.clear()

    # Runs.

    def start_of(self, task: Any, delivery: object, began: int = 0) -> bytes:
        """Return the frame that is recorded of a run that has no span.

        Nothing is prepared here: nobody knows of a run that is killed before this is written.

        Args:
            task: The task.
            delivery: ``delivery_info`` of its message, which may hold anything.
            began: Nanoseconds since the epoch; 0 for now.
        """
        known = self._counted.get(task.name)
        if known is None or known.delivery != delivery:
            payload = encode_counted_run(
                task.name,
                broker_of(task.app).system,
                destination_of_delivery(task.app, delivery),
            )
            known = _Counted(_copy(delivery), payload)
            self._counted[task.name] = known
        return COUNTED_START.pack(COUNTED, began or time.time_ns()) + known.payload

    def end_run(
        self,
        task: Any,
        delivery: object,
        state: str,
        error_type: str,
        seconds: float,
        waits: Mapping[str, float],
        span: Span | None,
        in_flight: memoryview | None,
    ) -> None:
        """Record a run that has ended, in the process that ran it.

        Args:
            task: The task.
            delivery: ``delivery_info`` of its message, which may hold anything.
            state: Celery's state.
            error_type: Of the exception it failed with; empty for none.
            seconds: How long it ran.
            waits: Of ``waits.waits``.
            span: Of the run, if it is sampled.
            in_flight: The state of its record.
        """
        writer = self._writer
        if not writer.is_ready[0]:
            writer.prepare()
        known = self._runs.get((task.name, state, error_type))
        if known is None or known.delivery != delivery:
            known = self._bind_run(task, delivery, state, error_type)
        amounts = (
            seconds,
            waits.get("celery.wait.broker"),
            waits.get("celery.wait.worker"),
            seconds,
        )
        self._add_to_all(known.histograms, amounts, span, in_flight)

    def _add_to_all(
        self,
        histograms: tuple[_Cells, ...],
        amounts: tuple[float | None, ...],
        span: Span | None,
        in_flight: memoryview | None,
    ) -> None:
        """Add a value to each histogram, of runs first, as ``_add`` does to one."""
        values, words = self._writer.page.values, self._writer.page.words
        places = []
        with self._writer.lock:
            for (cells, boundaries, first_exemplar, _), amount in zip(  # noqa: B905
                histograms, amounts
            ):
                if amount is None:
                    continue
                bucket = (
                    bisect_left(boundaries, amount)
                    if boundaries
                    else exponential_bucket(amount)
                )
                cell = cells + HISTOGRAM_WORDS + bucket
                values[cell] += 1
                if in_flight is not None:  # nothing may come between: see in_flight.py
                    in_flight[0] = ENDING
                    in_flight = None
                values[cells] += amount
                if amount < values[cells + 1]:
                    values[cells + 1] = amount
                if amount > values[cells + 2]:
                    values[cells + 2] = amount
                if span is not None and first_exemplar:
                    number = bucket if boundaries else bucket % EXPONENT_EXEMPLARS
                    place = cells + first_exemplar + number * EXEMPLAR_WORDS
                    if not words[place]:
                        places.append((place, amount))
        if places and span is not None:
            context = span.get_span_context()
            for place, amount in places:
                write_exemplar(self._writer, place, amount, context)

    def _bind_run(
        self, task: Any, delivery: object, state: str, error_type: str
    ) -> _RunCells:
        place = {
            "celery.task_name": task.name,
            "messaging.destination.name": self._names.destination(
                destination_of_delivery(task.app, delivery)
            ),
        }
        outcome = {
            "messaging.system": broker_of(task.app).system,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "celery.state": state,
            "error.type": self._names.error(task.name, error_type),
        }
        found = [
            self._histogram(builtin.RUN_DURATION, {**place, **outcome}),
            self._histogram(builtin.QUEUE_WAIT, place),
            self._histogram(builtin.WORKER_WAIT, place),
        ]
        if self._older is not None:
            found.append(self._histogram(self._older, {"task": task.name}))
        known = _RunCells(_copy(delivery), tuple(found))
        are_final = all(each.is_final for each in found)
        if are_final and len(self._runs) < NAMES * ERRORS_PER_TASK:
            self._runs[task.name, state, error_type] = known
        return known

    def end_eager_run(self, task: str, seconds: float) -> None:
        """Record a run that no message has caused."""
        if self._older is not None:
            if not self._writer.is_ready[0]:
                self._writer.prepare()
            self._add(self._histogram(self._older, {"task": task}), seconds, None)

    def end_killed_run(self, run: CountedRun, ended: int, error_type: str) -> None:
        """Record a run whose process is gone (main process).

        Args:
            run: What was recorded when it began.
            ended: Nanoseconds since the epoch.
            error_type: What is known of its end.
        """
        record_killed_run(
            self._writer,
            run._replace(destination=self._names.destination(run.destination)),
            ended,
            self._names.error(run.task, error_type),
            has_exponents=self._has_exponents,
        )

    def count_orphan(self, task: str) -> None:
        """Count a run of a message without a trace context."""
        self.count(builtin.ORPHAN_RUNS, {"celery.task_name": task})

    # Publishes, and what never runs.

    def end_publish(
        self,
        app: Any,
        task: str,
        destination: tuple[str, str, str],
        seconds: float,
        error: BaseException | None,
        span: Span,
    ) -> None:
        """Record a publish, whether it has failed or not."""
        writer = self._writer
        if not writer.is_ready[0]:
            writer.prepare()
        error_type = "" if error is None else error_type_of(error)
        known = self._publishes.get((task, destination, error_type))
        if known is None:
            known = self._bind_publish(app, task, destination, error_type)
        self._add(known.duration, seconds, span)
        with writer.lock:
            writer.page.values[known.sent.cells] += 1

    def _bind_publish(
        self, app: Any, task: str, destination: tuple[str, str, str], error_type: str
    ) -> _PublishCells:
        name = self._names.known(app, task)
        attributes = {
            "messaging.system": broker_of(app).system,
            "messaging.operation.name": "publish",
            "messaging.destination.name": self._names.destination(
                destination_name(*destination[:2])
            ),
            "celery.task_name": name,
            "error.type": self._names.error(name, error_type),
        }
        known = _PublishCells(
            self._histogram(
                builtin.PUBLISH_DURATION,
                {**attributes, "messaging.operation.type": "send"},
            ),
            self._find(builtin.SENT, attributes),
        )
        are_final = known.duration.is_final and known.sent.is_final
        if are_final and len(self._publishes) < NAMES * ERRORS_PER_TASK:
            self._publishes[task, destination, error_type] = known
        return known

    def count_received(self, app: Any, task: object, delivery: object) -> None:
        """Count a message that has come (main process)."""
        writer = self._writer
        if not writer.is_ready[0]:
            writer.prepare()
        known = self._received.get(task) if type(task) is str else None
        if known is None or known.app is not app or known.delivery != delivery:
            known = self._bind_received(app, task, delivery)
        with writer.lock:
            writer.page.values[known.cells] += 1

    def _bind_received(self, app: Any, task: object, delivery: object) -> _Received:
        name = self._names.registered(app, task)
        found = self._find(
            builtin.RECEIVED,
            {
                "messaging.system": broker_of(app).system,
                "messaging.operation.name": "receive",
                "messaging.destination.name": self._names.destination(
                    destination_of_delivery(app, delivery)
                ),
                "celery.task_name": name,
            },
        )
        known = _Received(app, _copy(delivery), found.cells)
        if found.is_final and name == task:  # of any other there may be any number
            self._received[name] = known
        return known

    def count_unrun(self, app: Any, task: object, reason: str) -> None:
        """Count a task that never runs."""
        self.count(
            builtin.UNRUN,
            {
                "celery.task_name": self._names.registered(app, task),
                "celery.reason": reason,
            },
        )

    # Series.

    def _histogram(
        self, description: Description, attributes: Mapping[str, Any]
    ) -> _Cells:
        if self._has_exponents:
            description = description.as_exponential()
        found = self._find(description, attributes)
        self._writer.page.words[found.cells + 3] = 1  # seconds are no whole numbers
        return found

    def count(self, description: Description, attributes: Mapping[str, Any]) -> None:
        """Add one to a counter."""
        if not self._writer.is_ready[0]:
            self._writer.prepare()
        cells = self._find(description, attributes).cells
        with self._writer.lock:
            self._writer.page.values[cells] += 1

    def record(
        self, description: Description, attributes: Mapping[str, Any], seconds: float
    ) -> None:
        """Add a value to a histogram."""
        if not self._writer.is_ready[0]:
            self._writer.prepare()
        self._add(self._histogram(description, attributes), seconds, None)

    def _find(self, description: Description, attributes: Mapping[str, Any]) -> _Cells:
        key = (description.name, *attributes.values())
        known = self._series.get(key)
        if known is not None:
            return known
        items = tuple(sorted((name, text) for name, text in attributes.items() if text))
        cells, is_final = self._writer.cells(description, items)
        has_exemplars = self._writer.has_exemplars
        first_exemplar = description.first_exemplar if has_exemplars else 0
        found = _Cells(cells, description.boundaries, first_exemplar, is_final)
        if is_final and len(self._series) < NAMES * ERRORS_PER_TASK:
            self._series[key] = found
        return found

    def _add(self, found: _Cells, amount: float, span: Span | None) -> None:
        """Add a value of seconds to a histogram, and keep an exemplar if one is due."""
        cells, boundaries, first_exemplar, _ = found
        bucket = (
            bisect_left(boundaries, amount)
            if boundaries
            else exponential_bucket(amount)
        )
        add_to_histogram(self._writer, cells, bucket, amount)
        if span is not None and first_exemplar:
            number = bucket if boundaries else bucket % EXPONENT_EXEMPLARS
            place = cells + first_exemplar + number * EXEMPLAR_WORDS
            if not self._writer.page.words[place]:
                context = span.get_span_context()
                if self._exemplars.takes(context):
                    write_exemplar(self._writer, place, amount, context)


def _copy(delivery: object) -> object:
    """Return a copy: a task may change its request's."""
    return dict(delivery) if type(delivery) is dict else None
