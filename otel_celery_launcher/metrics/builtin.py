# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of Celery that are there without code: one row each.

``docs/metrics.md`` is written from this table. Names are the conventions' own where they
have one (https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/,
https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/), and ``celery.*`` else. No
point has a host, a process or a slot of the pool: those are in the resource.
"""

from __future__ import annotations

from typing import NamedTuple

from otel_celery_launcher import __version__
from otel_celery_launcher.metrics.layout import Description, Kind

SCOPE = (
    "otel_celery_launcher",
    __version__,
    "https://opentelemetry.io/schemas/1.44.0",
    (),
)

# Seconds. Those of the conventions, and for tasks, which run longer, further ones.
RUN_BOUNDARIES = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 3600.0),
)
CALL_BOUNDARIES = RUN_BOUNDARIES[:14]
WAIT_BOUNDARIES = (
    *(0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0),
)

_DESTINATION = "messaging.destination.name"
_TASK = "celery.task_name"
_MESSAGING = (
    *("messaging.system", "messaging.operation.name", "messaging.operation.type"),
    *(_DESTINATION, _TASK),
)


class Builtin(NamedTuple):
    """A metric that is there without code.

    Attributes:
        description: The instrument.
        attributes: Names of its points' attributes.
        process: Who records it.
    """

    description: Description
    attributes: tuple[str, ...]
    process: str


_TABLE: dict[str, Builtin] = {}


def _metric(
    name: str,
    kind: Kind,
    unit: str,
    text: str,
    attributes: tuple[str, ...],
    process: str,
    boundaries: tuple[float, ...] = (),
) -> Description:
    description = Description(kind, name, unit, text, SCOPE, boundaries)
    _TABLE[name] = Builtin(description, attributes, process)
    return description


RUN_DURATION = _metric(
    "messaging.process.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the runs of tasks, by their outcome.",
    (*_MESSAGING, "celery.state", "error.type"),
    "where the task runs; of a killed run the main process",
    RUN_BOUNDARIES,
)
QUEUE_WAIT = _metric(
    "celery.queue.wait",
    Kind.HISTOGRAM,
    "s",
    "Time from a task's publish until a worker received it, without its ETA.",
    (_TASK, _DESTINATION),
    "where the task runs",
    WAIT_BOUNDARIES,
)
WORKER_WAIT = _metric(
    "celery.worker.wait",
    Kind.HISTOGRAM,
    "s",
    "Time from a task's arrival in the worker until it started, without its ETA.",
    (_TASK, _DESTINATION),
    "where the task runs",
    WAIT_BOUNDARIES,
)
ORPHAN_RUNS = _metric(
    "celery.orphan.runs",
    Kind.COUNTER,
    "{run}",
    "Runs of messages without a trace context: their publisher is not traced.",
    (_TASK,),
    "where the task runs",
)
RECEIVED = _metric(
    "messaging.client.consumed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages that the worker received.",
    ("messaging.system", "messaging.operation.name", _DESTINATION, _TASK),
    "main process",
)
UNRUN = _metric(
    "celery.tasks.unrun",
    Kind.COUNTER,
    "{task}",
    "Tasks that never run.",
    (_TASK, "celery.reason"),
    "main process; for deduplicated tasks the pool child",
)
PUBLISH_DURATION = _metric(
    "messaging.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of publishes, until the broker's answer or their failure.",
    (*_MESSAGING, "error.type"),
    "whoever publishes",
    CALL_BOUNDARIES,
)
SENT = _metric(
    "messaging.client.sent.messages",
    Kind.COUNTER,
    "{message}",
    "Messages that were published.",
    ("messaging.system", "messaging.operation.name", _DESTINATION, _TASK, "error.type"),
    "whoever publishes",
)
TASKS = _metric(
    "celery.worker.tasks",
    Kind.OBSERVED_UP_DOWN,
    "{task}",
    "Tasks in the worker: those that run, wait for a process, or wait for their ETA.",
    ("celery.phase",),
    "main process",
)
POOL_LIMIT = _metric(
    "celery.worker.pool.limit",
    Kind.OBSERVED_UP_DOWN,
    "{process}",
    "Tasks that can run at once: processes, threads or greenlets of the pool.",
    (),
    "main process",
)
POOL_USAGE = _metric(
    "celery.worker.pool.usage",
    Kind.OBSERVED_UP_DOWN,
    "{process}",
    "Processes, threads or greenlets of the pool that run a task.",
    (),
    "main process",
)
PREFETCH_LIMIT = _metric(
    "celery.worker.prefetch.limit",
    Kind.OBSERVED_UP_DOWN,
    "{message}",
    "Messages that the worker takes before it acknowledges one; 0 for no limit.",
    (),
    "main process",
)
CHILD_ENDED = _metric(
    "celery.worker.child.ended",
    Kind.COUNTER,
    "{process}",
    "Pool processes that have ended.",
    ("celery.reason",),
    "main process",
)
RECONNECTS = _metric(
    "celery.broker.reconnects",
    Kind.COUNTER,
    "{connection}",
    "Connections to the broker after the first one.",
    (),
    "main process",
)
CONNECTED = _metric(
    "celery.broker.connected",
    Kind.GAUGE,
    "{connection}",
    "Whether the worker has a connection to the broker: 1 or 0.",
    (),
    "main process",
)
BEAT_LAG = _metric(
    "celery.beat.lag",
    Kind.HISTOGRAM,
    "s",
    "How late beat published an entry of its schedule.",
    ("celery.schedule.entry",),
    "beat",
    WAIT_BOUNDARIES,
)
BEAT_TICK_AGE = _metric(
    "celery.beat.tick.age",
    Kind.SINCE,
    "s",
    "Time since beat last looked at its schedule. It grows where beat hangs.",
    (),
    "beat",
)
QUEUE_MESSAGES = _metric(
    "celery.queue.messages",
    Kind.OBSERVED_UP_DOWN,
    "{message}",
    "Messages in a queue, as the broker says. Each worker reports it: take the maximum.",
    (_DESTINATION, "celery.queue.state"),
    "a helper of the exporter process",
)
QUEUE_CONSUMERS = _metric(
    "celery.queue.consumers",
    Kind.OBSERVED_UP_DOWN,
    "{consumer}",
    "Consumers of a queue (RabbitMQ). Each worker reports it: take the maximum.",
    (_DESTINATION,),
    "a helper of the exporter process",
)
CPU_TIME = _metric(
    "process.cpu.time",
    Kind.ABSOLUTE,
    "s",
    "CPU time of the worker's processes; of ended pool processes, too.",
    ("cpu.mode", "celery.process"),
    "whoever exports",
)
MEMORY = _metric(
    "process.memory.usage",
    Kind.OBSERVED_UP_DOWN,
    "By",
    "Resident memory of the worker's processes. Pages that they share count in each.",
    ("celery.process",),
    "whoever exports",
)
EXPORTED = _metric(
    "otel.sdk.exporter.span.exported",
    Kind.ABSOLUTE,
    "{span}",
    "Spans whose export has ended; with error.type those that failed for good.",
    ("otel.component.type", "error.type"),
    "whoever exports",
)
PROCESSED = _metric(
    "otel.sdk.processor.span.processed",
    Kind.ABSOLUTE,
    "{span}",
    "Spans that went to an exporter; with error.type those dropped before.",
    ("otel.component.type", "error.type"),
    "whoever exports",
)
QUEUE_SIZE = _metric(
    "otel.sdk.processor.span.queue.size",
    Kind.OBSERVED_UP_DOWN,
    "{span}",
    "Spans that wait for their export.",
    ("otel.component.type",),
    "whoever exports",
)
POINTS_EXPORTED = _metric(
    "otel.sdk.exporter.metric_data_point.exported",
    Kind.ABSOLUTE,
    "{data_point}",
    "Points of metrics that the collector took.",
    ("otel.component.type",),
    "whoever exports",
)
EXPORT_DURATION = _metric(
    "otel.sdk.exporter.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of exports.",
    ("otel.component.type", "error.type"),
    "whoever exports",
    CALL_BOUNDARIES,
)
RESTARTS = _metric(
    "otel_celery.exporter.restarts",
    Kind.ABSOLUTE,
    "{restart}",
    "How many times the exporter process was replaced.",
    (),
    "main process",
)

BUILTINS = dict(_TABLE)
