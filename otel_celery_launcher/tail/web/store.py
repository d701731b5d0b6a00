# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the live page shows: the newest traces, figures of tasks and workers, problems.

One thread adds, as traces are complete; those of the server read. All of it is bounded:
in number, and the traces in bytes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.tail.task_figures import NAME_CHARACTERS, TaskFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_celery_launcher.receiver.metrics import ReceivedPoint
    from otel_celery_launcher.tail.display import Summary
    from otel_celery_launcher.tail.task_figures import TaskRow
    from otel_celery_launcher.tail.traces import Trace
    from otel_celery_launcher.tail.waterfall import WaterfallRow

# The newest traces, and the bytes of their spans and log records.
TRACES_KEPT = 2000
BYTES_KEPT = 64 * 1024 * 1024

PROBLEMS_KEPT = 500  # of each kind
SOURCES_KEPT = 500  # services and instances that report
QUEUES_KEPT = 500
QUEUES_OF_A_TASK = 20
LOSSES_KEPT = 10  # kinds of errors of one source

# A larger number is no count, and Python would write all of its digits.
LARGEST = 2.0**63

# Characters of a trace in which a text is looked for.
SEARCHED_CHARACTERS = 4000

LOST, ORPHAN = "lost", "orphan"

# Metrics of a worker, and of a queue, by name: where their value goes.
_WORKER_METRICS = {
    builtin.POOL_LIMIT.name: "pool_limit",
    builtin.POOL_USAGE.name: "pool_usage",
    builtin.QUEUE_SIZE.name: "queued",
    builtin.RESTARTS.name: "restarts",
}
_QUEUED = {
    builtin.QUEUE_MESSAGES.name: "messages",
    builtin.QUEUE_CONSUMERS.name: "consumers",
}
_EXPORTED, _PROCESSED = builtin.EXPORTED.name, builtin.PROCESSED.name
_CPU_TIME = builtin.CPU_TIME.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A trace in the list; times in seconds."""

    trace: Trace
    summary: Summary
    name: str
    services: tuple[str, ...]
    tasks: frozenset[str]
    notes: frozenset[str]  # of its rows: ``waterfall.WaterfallRow.note``
    began: float
    seconds: float
    text: str  # what a search looks through, in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A task that was lost, or a span without the one that caused it."""

    kind: str
    when: float
    name: str
    service: str
    why: str
    trace_id: str


@dataclass(slots=True)
class Source:
    """Who reports: an instance by its metrics, or a service by its spans alone.

    Attributes:
        seen: When something came last; seconds since the epoch.
        role: ``celery.role`` of its resource.
        mode: How its spans leave: ``process`` or ``inline``; empty if it does not say.
        exported: Spans that a collector took, as it says.
        losses: Spans that it could not deliver, or had to drop, by metric and error.
    """

    service: str
    instance: str = ""
    role: str = ""
    mode: str = ""
    seen: float = 0.0
    spans: int = 0
    exported: float | None = None
    queued: float | None = None
    pool_usage: float | None = None
    pool_limit: float | None = None
    restarts: float | None = None
    losses: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def lost(self) -> float | None:
        """The sum of its losses; None if it does not say."""
        return sum(self.losses.values()) if self.losses else None


@dataclass(slots=True)
class Queue:
    """What the broker says of a queue, by the worker that has asked last.

    Attributes:
        messages: Those that wait in it.
        consumers: None where the broker does not say.
    """

    name: str
    messages: int | None = None
    consumers: int | None = None


class Store:
    """Keeps what the page shows.

    Args:
        clock: Seconds since the epoch.

    Attributes:
        figures: Of the tasks; the thread that adds may read them without ``tasks``.
        left_out: Traces that had to go for newer ones.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._version = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self.figures = TaskFigures(clock)
        self._problems: dict[str, OrderedDict[tuple[str, str], Problem]] = {
            LOST: OrderedDict(),
            ORPHAN: OrderedDict(),
        }
        self._sources: OrderedDict[tuple[str, str], Source] = OrderedDict()
        self._queues: OrderedDict[str, Queue] = OrderedDict()
        self._queues_of: OrderedDict[str, set[str]] = OrderedDict()  # by task
        self._totals = ""
        self.left_out = 0

    # What comes.

    def add(self, trace: Trace, rows: Sequence[WaterfallRow], summary: Summary) -> None:
        """Keep a trace, in its place if it was there."""
        entry = _entry(trace, rows, summary)
        with self._changed:
            before = self._entries.pop(trace.trace_id, None)
            if before is not None:
                self._bytes -= before.trace.size_bytes
            self._entries[trace.trace_id] = entry
            self._bytes += trace.size_bytes
            self._make_room()
            self.figures.add(rows)
            for row in rows:
                self._note_problem(row)
            self._note_services(rows, before)
            self._note_change()

    def add_points(self, points: Iterable[ReceivedPoint]) -> None:
        """Keep the last figures of whoever reports them."""
        with self._changed:
            for point in points:
                self._add_point(point)
            self._note_change()

    def set_totals(self, totals: str) -> None:
        """Keep the line with the sums over all that came."""
        with self._changed:
            if totals != self._totals:
                self._totals = totals
                self._note_change()

    def _make_room(self) -> None:
        while len(self._entries) > 1 and (
            len(self._entries) > TRACES_KEPT or self._bytes > BYTES_KEPT
        ):
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.trace.size_bytes
            self.left_out += 1

    def _note_change(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _note_problem(self, row: WaterfallRow) -> None:
        span = row.span
        kinds = {LOST: row.note == "LOST", ORPHAN: row.is_orphan or row.is_root_run}
        for kind, has_it in kinds.items():
            known, key = self._problems[kind], (span.trace_id, span.span_id)
            if not has_it:
                known.pop(key, None)  # its parent has come since
                continue
            why = row.reason
            if kind == ORPHAN:
                why = "its publish is not traced" if row.is_root_run else ""
                why = why or f"no span {span.parent_id} has come"
            known[key] = Problem(
                kind=kind,
                when=span.start,
                name=span.name[:NAME_CHARACTERS],
                service=span.service[:NAME_CHARACTERS],
                why=why[:NAME_CHARACTERS],
                trace_id=span.trace_id,
            )
            while len(known) > PROBLEMS_KEPT:
                known.popitem(last=False)

    def _note_services(
        self, rows: Sequence[WaterfallRow], before: Entry | None
    ) -> None:
        known = {span.span_id for span in before.trace.spans} if before else set()
        for row in rows:
            source = self._source(row.span.service, "")
            source.spans += row.span.span_id not in known
            source.seen = self._clock()

    def _source(self, service: str, instance: str) -> Source:
        key = service[:NAME_CHARACTERS], instance[:NAME_CHARACTERS]
        source = self._sources.setdefault(key, Source(*key))
        self._sources.move_to_end(key)
        while len(self._sources) > SOURCES_KEPT:
            self._sources.popitem(last=False)
        return source

    def _add_point(self, point: ReceivedPoint) -> None:
        if not abs(point.value) <= LARGEST:  # or NaN
            return
        queue = point.attributes.get("messaging.destination.name")
        if isinstance(queue, str) and len(queue) <= NAME_CHARACTERS:
            self._note_queue(queue, point)
        instance = str(point.resource.get("service.instance.id", ""))
        has_error = "error.type" in point.attributes
        name = _WORKER_METRICS.get(point.metric, "")
        if not instance or not (
            name or point.metric in (_EXPORTED, _PROCESSED, _CPU_TIME)
        ):
            return
        source = self._source(point.service, instance)
        source.seen = self._clock()
        source.role = str(point.resource.get("celery.role", ""))[:NAME_CHARACTERS]
        if point.attributes.get("celery.process") == "exporter":
            source.mode = "process"
        elif point.metric == _EXPORTED:
            source.mode = source.mode or "inline"
        if point.metric == _CPU_TIME:
            return
        if name:
            setattr(source, name, point.value)
        elif point.metric == _EXPORTED and not has_error:
            source.exported = point.value
        elif has_error and len(source.losses) < LOSSES_KEPT:
            error = str(point.attributes["error.type"])[:NAME_CHARACTERS]
            source.losses[point.metric, error] = point.value

    def _note_queue(self, name: str, point: ReceivedPoint) -> None:
        """Keep the figures of a queue, or that a task runs from it."""
        field = _QUEUED.get(point.metric)
        if field is None:
            task = point.attributes.get("celery.task_name")
            if isinstance(task, str) and len(task) <= NAME_CHARACTERS:
                queues = self._queues_of.setdefault(task, set())
                if len(queues) < QUEUES_OF_A_TASK:
                    queues.add(name)
                while len(self._queues_of) > QUEUES_KEPT:
                    self._queues_of.popitem(last=False)
            return
        if point.attributes.get("celery.queue.state", "ready") != "ready":
            return
        queue = self._queues.setdefault(name, Queue(name))
        setattr(queue, field, int(point.value))
        while len(self._queues) > QUEUES_KEPT:
            self._queues.popitem(last=False)

    # What is read.

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    @property
    def totals(self) -> str:
        """The sums over all that came."""
        return self._totals

    def wait(self, version: int, seconds: float) -> int:
        """Wait for a change after a version; return the version now."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, seconds)
            return self._version

    def tasks(self) -> list[TaskRow]:
        """Return the figures of all tasks."""
        with self._changed:
            return [
                replace(row, in_queue=self._in_queue(row.name))
                for row in self.figures.rows()
            ]

    def _in_queue(self, task: str) -> int | None:
        depths = [
            self._queues[name].messages or 0
            for name in self._queues_of.get(task, ())
            if name in self._queues
        ]
        return sum(depths) if depths else None

    def queues(self) -> list[Queue]:
        """Return what brokers say of their queues."""
        with self._changed:
            return [replace(each) for each in self._queues.values()]

    def entries(self) -> list[Entry]:
        """Return all traces, the newest first."""
        with self._changed:
            return list(reversed(self._entries.values()))

    def entry(self, trace_id: str) -> Entry | None:
        """Return a trace."""
        with self._changed:
            return self._entries.get(trace_id)

    def problems(self, kind: str) -> list[Problem]:
        """Return those of a kind, the newest first."""
        with self._changed:
            return list(reversed(self._problems[kind].values()))

    def sources(self) -> list[Source]:
        """Return who reports; a service by its spans only if none of its instances do."""
        with self._changed:
            known = {service for service, instance in self._sources if instance}
            return [
                each
                for each in self._sources.values()
                if each.instance or each.service not in known
            ]


def _entry(trace: Trace, rows: Sequence[WaterfallRow], summary: Summary) -> Entry:
    spans = [row.span for row in rows]
    words: list[Any] = [trace.trace_id]
    for span in spans:
        words += (span.name, span.service, span.status_text)
        words.append(span.attributes.get("messaging.message.id", ""))
    text = " ".join(dict.fromkeys(map(str, filter(None, words))))
    names = (span.attributes.get("celery.task_name") for span in spans)
    return Entry(
        trace=trace,
        summary=summary,
        name=spans[0].name,
        services=tuple(dict.fromkeys(span.service for span in spans)),
        tasks=frozenset(
            name[:NAME_CHARACTERS] for name in names if isinstance(name, str)
        ),
        notes=frozenset(row.note for row in rows),
        began=min(span.start for span in spans),
        seconds=trace.seconds,
        text=text[:SEARCHED_CHARACTERS].lower(),
    )
