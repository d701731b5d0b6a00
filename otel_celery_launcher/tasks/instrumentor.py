# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a task: PRODUCER at publish, CONSUMER at run, parent and child.

Stands in for the contrib instrumentor, and keeps its instrumentation scope and names, so
that dashboards stay as they are. The contrib instrumentor is imported only if the
application imports it, which then meets this one (``compat/celery_instrumentor.py``).
Runs in every process of the worker, in Celery's signals.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry import trace
from opentelemetry.metrics import get_meter

from otel_celery_launcher.compat import (
    celery_instrumentor,
    celery_private,
    celery_signals,
)
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.metrics.builtin import RUN_BOUNDARIES
from otel_celery_launcher.metrics.layout import Description, Kind
from otel_celery_launcher.settings.task_globs import TaskGlobs
from otel_celery_launcher.tasks.attributes import Attributes
from otel_celery_launcher.tasks.discarded import DiscardedTasks
from otel_celery_launcher.tasks.errors import text_of
from otel_celery_launcher.tasks.publish import Publisher
from otel_celery_launcher.tasks.received import ReceivedMessages
from otel_celery_launcher.tasks.run import Runs
from otel_celery_launcher.tasks.waits import PUBLISHED_HEADER, RECEIVED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_celery_launcher.ipc.in_flight import Record
    from otel_celery_launcher.settings.tasks import TaskSettings
    from otel_celery_launcher.tasks.ending import Front
    from otel_celery_launcher.tasks.metrics import TaskMetrics


# The contrib instrumentation's scope.
_SCOPE = "opentelemetry.instrumentation.celery"
_SCOPE_VERSION = celery_instrumentor.version()
_SCOPE_SCHEMA_URL = "https://opentelemetry.io/schemas/1.11.0"

# The histogram of the contrib instrumentation. Its own boundaries are the SDK's, in which
# all runs under 5 s are one bucket.
OLDER_HISTOGRAM = Description(
    Kind.HISTOGRAM,
    "flower.task.runtime.seconds",
    "seconds",
    "The time it took to run the task.",
    (_SCOPE, _SCOPE_VERSION, _SCOPE_SCHEMA_URL, ()),
    RUN_BOUNDARIES,
)

# What an application may ask of ``CeleryInstrumentor().instrument``.
_REQUESTS = ("tracer_provider", "meter_provider", "use_span_links")


class CeleryInstrumentation:
    """Connects the spans to Celery.

    Args:
        settings: What is recorded about tasks.
        adopt: Takes a tracer provider that the application instruments Celery with.
        front: Takes the spans.
        metrics: Records runs and publishes; None without metrics.
    """

    def __init__(
        self,
        settings: TaskSettings,
        adopt: Callable[[object], object] | None,
        front: Front | None,
        metrics: TaskMetrics | None,
    ) -> None:
        self._settings = settings
        self._adopt = adopt
        self._metrics = metrics
        self._asked: dict[str, Any] = {}  # of instrument's arguments, the last of each
        self.received = ReceivedMessages()
        tracer, attributes, settings = self._makers()
        self.runs = Runs(tracer, attributes, settings, front, metrics)
        self._publisher = Publisher(tracer, attributes, settings, front, metrics)
        self._discarded = DiscardedTasks(tracer, attributes, self.runs, metrics)
        self._note_histogram()
        self._undo: list[Callable[[], object]] = []
        self._receivers: list[tuple[Any, Callable[..., None]]] = [
            (signals.task_received, self._note_received),
            (signals.task_prerun, self.runs.begin),
            (signals.task_postrun, self.runs.end),
            (signals.task_failure, self._note_failure),
            (signals.task_retry, self._note_retry),
        ]

    def connect(self, asked: Mapping[str, Any]) -> None:
        """Connect to Celery's signals.

        Args:
            asked: Arguments of the application's ``instrument``.
        """
        for signal, receiver in self._receivers:
            signal.connect(receiver, weak=False)
            self._undo.append(celery_signals.send_quickly(signal, receiver))
        self._discarded.connect()
        self._unwrap = celery_private.wrap_task_sender(self._publisher.publish)
        celery_private.keep_out_of_headers(PUBLISHED_HEADER, RECEIVED_KEY)
        self.honour(asked)

    def disconnect(self) -> None:
        """Undo ``connect``, as the application asks."""
        while self._undo:
            self._undo.pop()()
        for signal, receiver in self._receivers:
            signal.disconnect(receiver)
        self._unwrap()
        self._discarded.disconnect()
        if self.runs.record is not None:
            self.runs.record.clear()  # the end of this run will not be heard
        self._asked = {}
        self._change_makers()

    def honour(self, asked: Mapping[str, Any]) -> None:
        """Apply arguments of the application's ``instrument`` to later runs and publishes.

        Args:
            asked: A tracer provider, a meter provider, whether spans are linked.
        """
        known = {name: asked[name] for name in _REQUESTS if asked.get(name)}
        if not known:
            return
        self._asked.update(known)
        provider = self._asked.get("tracer_provider")
        if provider is not None and self._adopt is not None:
            self._adopt(provider)
        self._change_makers()

    def _change_makers(self) -> None:
        tracer, attributes, settings = self._makers()
        self.runs.change(tracer, attributes, settings)
        self._publisher.change(tracer, attributes, settings)
        self._discarded.change(tracer, attributes)
        self._note_histogram()

    def _makers(self) -> tuple[trace.Tracer, Attributes, TaskSettings]:
        """Return what makes spans, as was asked for last."""
        settings, provider = self._settings, self._asked.get("tracer_provider")
        if "use_span_links" in self._asked:
            settings = settings._replace(new_traces=TaskGlobs([("*", True)]))
        tracer = trace.get_tracer(
            _SCOPE, _SCOPE_VERSION, provider, schema_url=_SCOPE_SCHEMA_URL
        )
        attributes = Attributes(settings)
        return attributes.tracer(tracer, provider), attributes, settings

    def _note_histogram(self) -> None:
        """Let runs go into the histogram of the contrib instrumentor, where ours does not."""
        provider = self._asked.get("meter_provider")
        if self._metrics is not None and provider is None:
            self.runs.histogram = None
            return
        meter = get_meter(_SCOPE, _SCOPE_VERSION, provider, _SCOPE_SCHEMA_URL)
        self.runs.histogram = meter.create_histogram(
            OLDER_HISTOGRAM.name, OLDER_HISTOGRAM.unit, OLDER_HISTOGRAM.description
        )

    def _note_failure(self, *, sender: Any = None, einfo: Any = None, **_: Any) -> None:
        self.runs.note_failure(getattr(sender, "request", None), sender, einfo)

    def _note_retry(self, *, request: Any = None, reason: Any = None, **_: Any) -> None:
        span = self.runs.span_of(request)
        if span is not None and reason is not None:
            span.set_attribute("celery.retry.reason", text_of(reason))

    def _note_received(self, *, request: Any = None, **_: Any) -> None:
        """Main process: a message has come."""
        self.received.note(request.request_dict)
        if self._metrics is not None:
            try:
                self._metrics.count_received(
                    request.app, request.name, request.delivery_info
                )
            except MALFORMED_ERRORS:  # of a message nobody has thought of
                return


# That of this interpreter, also of the process that it was forked from.
_present: CeleryInstrumentation | None = None


def record_in_flight_runs(record: Record | None) -> None:
    """Record each run while it is in flight; called in a pool child.

    Args:
        record: This process's; None if there is none left.
    """
    if _present is not None:
        _present.runs.record = record


def start_of_unrecorded_run(request: Any) -> bytes | None:
    """Return the start of a run that its process could not record (main process).

    Args:
        request: Celery's, of the worker: ``celery.worker.request.Request``.
    """
    if _present is not None:
        with suppress(*MALFORMED_ERRORS):  # of a message nobody has thought of
            return _present.runs.start_of_unrecorded(request)
    return None


def received_messages() -> dict[str, Any]:
    """Return what the worker's main process knows of the messages that came of late."""
    return {} if _present is None else _present.received.status()


def instrument_celery(
    settings: TaskSettings,
    adopt: Callable[[object], object] | None,
    front: Front | None,
    metrics: TaskMetrics | None = None,
) -> None:
    """Instrument Celery, instead of any instrumentor that is already there.

    Args:
        settings: What is recorded about tasks.
        adopt: Takes a tracer provider that the application instruments Celery with.
        front: Takes the spans.
        metrics: Records runs and publishes; None without metrics.
    """
    global _present
    if _present is not None:
        return
    _present = CeleryInstrumentation(settings, adopt, front, metrics)
    _present.connect({})
    celery_instrumentor.stand_in_for_contrib(_present)
