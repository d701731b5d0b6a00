# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a task: PRODUCER at publish, CONSUMER at run, parent and child.

A subclass that replaces the contrib instrumentor. It keeps that one's instrumentation
scope and names, so that dashboards stay as they are. Runs in every process of the
worker, in Celery's signals.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry import trace
from opentelemetry.metrics import get_meter

from otel_celery_launcher.compat import celery_instrumentor, celery_private
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.metrics.builtin import RUN_BOUNDARIES
from otel_celery_launcher.metrics.layout import Description, Kind
from otel_celery_launcher.settings.task_globs import TaskGlobs
from otel_celery_launcher.settings.tasks import TaskSettings
from otel_celery_launcher.tasks.attributes import Attributes
from otel_celery_launcher.tasks.discarded import DiscardedTasks
from otel_celery_launcher.tasks.errors import text_of
from otel_celery_launcher.tasks.publish import Publisher
from otel_celery_launcher.tasks.received import ReceivedMessages
from otel_celery_launcher.tasks.run import Runs
from otel_celery_launcher.tasks.waits import PUBLISHED_HEADER, RECEIVED_KEY

celery_private.import_instrumentor_alone()

from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: E402
from opentelemetry.instrumentation.celery.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

    from otel_celery_launcher.ipc.in_flight import Record
    from otel_celery_launcher.tasks.ending import Front
    from otel_celery_launcher.tasks.metrics import TaskMetrics


# The instrumentation's own scope.
_SCOPE = "opentelemetry.instrumentation.celery"
_SCOPE_SCHEMA_URL = "https://opentelemetry.io/schemas/1.11.0"

# The histogram of the contrib instrumentation. Its own boundaries are the SDK's, in which
# all runs under 5 s are one bucket.
OLDER_HISTOGRAM = Description(
    Kind.HISTOGRAM,
    "flower.task.runtime.seconds",
    "seconds",
    "The time it took to run the task.",
    (_SCOPE, __version__, _SCOPE_SCHEMA_URL, ()),
    RUN_BOUNDARIES,
)

# What an application may ask of ``instrument``.
_REQUESTS = ("tracer_provider", "meter_provider", "use_span_links")


class LauncherCeleryInstrumentor(CeleryInstrumentor):
    """Connects the spans to Celery.

    An application's ``CeleryInstrumentor().instrument()`` meets this instance: each span
    comes once, and what it asks for is done.
    """

    settings = TaskSettings()
    adopt: Callable[[object], object] | None = None  # a provider of the application's
    front: Front | None = None  # takes the spans
    task_metrics: TaskMetrics | None = None
    runs: Runs | None = None
    publisher: Publisher | None = None
    _discarded: DiscardedTasks | None = None
    received: ReceivedMessages
    _asked: dict[str, Any]  # of instrument's arguments, the last of each
    _is_counted = False  # our own metrics have the contrib instrumentation's histogram

    def instrument(self, **kwargs: Any) -> None:
        """Connect to Celery's signals; a second call changes what it asks for."""
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)
        elif any(kwargs.get(name) for name in _REQUESTS):
            self._honour(kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        super()._instrument(**kwargs)  # connects the methods below, makes the tracer
        self._asked = {}
        self.received = ReceivedMessages()
        self._honour(kwargs)
        assert self.publisher is not None  # noqa: S101 - for the type checker
        assert self._discarded is not None  # noqa: S101
        self._discarded.connect()
        self._unwrap = celery_private.wrap_task_sender(self.publisher.publish)
        celery_private.keep_out_of_headers(PUBLISHED_HEADER, RECEIVED_KEY)
        signals.before_task_publish.disconnect(self._trace_before_publish)
        signals.after_task_publish.disconnect(self._trace_after_publish)
        signals.task_received.connect(self._note_received, weak=False)

    def _uninstrument(self, **kwargs: Any) -> None:
        super()._uninstrument(**kwargs)
        self._unwrap()
        if self._discarded is not None:
            self._discarded.disconnect()
        signals.task_received.disconnect(self._note_received)
        if self.runs is not None and self.runs.record is not None:
            self.runs.record.clear()  # the end of this run will not be heard

    def _honour(self, kwargs: Mapping[str, Any]) -> None:
        """Apply arguments of ``instrument`` to later runs and publishes."""
        self._asked.update({k: kwargs[k] for k in _REQUESTS if kwargs.get(k)})
        provider = self._asked.get("tracer_provider")
        if provider is not None and self.adopt is not None:
            self.adopt(provider)
        settings = self.settings
        if "use_span_links" in self._asked:
            settings = replace(settings, new_traces=TaskGlobs([("*", True)]))
        has_own = self._asked.get("meter_provider") is not None
        self._is_counted = self.task_metrics is not None and not has_own
        if kwargs.get("meter_provider") is not None:
            self.create_celery_metrics(
                get_meter(_SCOPE, __version__, kwargs["meter_provider"])
            )
        tracer = trace.get_tracer(
            _SCOPE, __version__, provider, schema_url=_SCOPE_SCHEMA_URL
        )
        attributes = Attributes(settings)
        self._tracer = attributes.tracer(tracer, provider)
        self._make_spans_with(self._tracer, attributes, settings)

    def _make_spans_with(
        self, tracer: trace.Tracer, attributes: Attributes, settings: TaskSettings
    ) -> None:
        if self.runs is None or self.publisher is None or self._discarded is None:
            metrics = self.task_metrics
            self.runs = Runs(tracer, attributes, settings, self.front, metrics)
            self.publisher = Publisher(
                tracer, attributes, settings, self.front, metrics
            )
            self._discarded = DiscardedTasks(tracer, attributes, self.runs, metrics)
        else:
            self.runs.change(tracer, attributes, settings)
            self.publisher.change(tracer, attributes, settings)
            self._discarded.change(tracer, attributes)

    def _trace_prerun(
        self, *_: Any, task: Any = None, args: object = (), **__: Any
    ) -> None:
        if task is not None and self.runs is not None:
            self.runs.begin(task, args)

    def _trace_postrun(
        self, *_: Any, task: Any = None, state: str | None = None, **__: Any
    ) -> None:
        if task is None or self.runs is None:
            return
        request = task.request
        seconds = self.runs.end(request, state, task)
        if seconds is not None and self.metrics and not self._is_counted:
            self.metrics["flower.task.runtime.seconds"].record(
                seconds, {"task": task.name, "worker": request.hostname or ""}
            )

    def _trace_failure(  # type: ignore[override]  # not static: it knows the runs
        self, *_: Any, sender: Any = None, einfo: Any = None, **__: Any
    ) -> None:
        if self.runs is not None:
            self.runs.note_failure(getattr(sender, "request", None), sender, einfo)

    def _trace_retry(  # type: ignore[override]  # likewise
        self, *_: Any, request: Any = None, reason: Any = None, **__: Any
    ) -> None:
        span = self._span_of(request)
        if span is not None and reason is not None:
            span.set_attribute("celery.retry.reason", text_of(reason))

    def _note_received(self, request: Any = None, **_: Any) -> None:
        """Main process: a message has come."""
        self.received.note(request.request_dict)
        if self.task_metrics is not None:
            try:
                self.task_metrics.count_received(
                    request.app, request.name, request.delivery_info
                )
            except MALFORMED_ERRORS:  # of a message nobody has thought of
                return

    def _span_of(self, request: Any) -> Span | None:
        return None if self.runs is None else self.runs.span_of(request)


def record_in_flight_runs(record: Record | None) -> None:
    """Record each run while it is in flight; called in a pool child.

    Args:
        record: This process's; None if there is none left.
    """
    instrumentor = CeleryInstrumentor()
    if isinstance(instrumentor, LauncherCeleryInstrumentor) and instrumentor.runs:
        instrumentor.runs.record = record


def start_of_unrecorded_run(request: Any) -> bytes | None:
    """Return the start of a run that its process could not record (main process).

    Args:
        request: Celery's, of the worker: ``celery.worker.request.Request``.
    """
    instrumentor = CeleryInstrumentor()
    if isinstance(instrumentor, LauncherCeleryInstrumentor) and instrumentor.runs:
        with suppress(*MALFORMED_ERRORS):  # of a message nobody has thought of
            return instrumentor.runs.start_of_unrecorded(request)
    return None


def received_messages() -> dict[str, Any]:
    """Return what the worker's main process knows of the messages that came of late."""
    instrumentor = CeleryInstrumentor()
    if (
        not isinstance(instrumentor, LauncherCeleryInstrumentor)
        or not instrumentor.runs
    ):
        return {}
    return instrumentor.received.status()


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
    present = CeleryInstrumentor()
    if isinstance(present, LauncherCeleryInstrumentor):
        return
    if present.is_instrumented_by_opentelemetry:
        present.uninstrument()
    instrumentor = celery_instrumentor.make_instance(LauncherCeleryInstrumentor)
    instrumentor.settings = settings
    instrumentor.adopt = adopt
    instrumentor.front = front
    instrumentor.task_metrics = metrics
    celery_instrumentor.take_over_celery_instrumentor(instrumentor)
    instrumentor.instrument(skip_dep_check=True)
