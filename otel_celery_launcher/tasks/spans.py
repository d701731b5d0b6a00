# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a task: PRODUCER at publish, CONSUMER at run, parent and child.

A subclass of the contrib instrumentor that takes its place, under its instrumentation
scope and with its names, so that dashboards stay as they are. Runs in every process of
the worker, in Celery's signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from otel_celery_launcher import _compat, _compat_celery
from otel_celery_launcher.task_settings import TaskSettings
from otel_celery_launcher.tasks import run
from otel_celery_launcher.tasks.attributes import Attributes
from otel_celery_launcher.tasks.publish import Publisher
from otel_celery_launcher.tasks.run import Runs
from otel_celery_launcher.tasks.unrun import UnrunTasks
from otel_celery_launcher.tasks.waits import note_received

if TYPE_CHECKING:
    from otel_celery_launcher.exporter.running import RunNote


class LauncherCeleryInstrumentor(CeleryInstrumentor):
    """Connects the spans to Celery.

    An application's ``CeleryInstrumentor().instrument()`` meets this instance and
    does nothing: each span comes once.
    """

    settings = TaskSettings()

    def instrument(self, **kwargs: Any) -> None:
        """Connect to Celery's signals; a second call does nothing and says nothing."""
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        super()._instrument(**kwargs)  # connects the methods below, makes the tracer
        settings = self.settings
        attributes = Attributes(settings)
        tracer = attributes.tracer(self._tracer, kwargs.get("tracer_provider"))
        self.runs = Runs(tracer, attributes, settings)
        self._unrun = UnrunTasks(tracer, attributes)
        self._unrun.connect()
        self._unwrap = _compat_celery.wrap_task_sender(
            Publisher(tracer, attributes).publish
        )
        signals.before_task_publish.disconnect(self._trace_before_publish)
        signals.after_task_publish.disconnect(self._trace_after_publish)
        signals.task_received.connect(note_received, weak=False)

    def _uninstrument(self, **kwargs: Any) -> None:
        super()._uninstrument(**kwargs)
        self._unwrap()
        self._unrun.disconnect()
        signals.task_received.disconnect(note_received)

    def _trace_prerun(self, *_: Any, task: Any = None, **__: Any) -> None:
        if task is not None:
            self.runs.begin(task)

    def _trace_postrun(
        self, *_: Any, task: Any = None, state: str | None = None, **__: Any
    ) -> None:
        if task is None:
            return
        request = task.request
        seconds = self.runs.end(request, state)
        if seconds is not None and self.metrics:
            self.metrics["flower.task.runtime.seconds"].record(
                seconds, {"task": task.name, "worker": request.hostname or ""}
            )

    @staticmethod
    def _trace_failure(
        *_: Any, sender: Any = None, einfo: Any = None, **__: Any
    ) -> None:
        span = Runs.span_of(getattr(sender, "request", None))
        if span is not None and span.is_recording():
            run.fail(span, sender, einfo)

    @staticmethod
    def _trace_retry(
        *_: Any, request: Any = None, reason: Any = None, **__: Any
    ) -> None:
        span = Runs.span_of(request)
        if span is not None and reason:
            span.set_attribute("celery.retry.reason", str(reason))


def note_runs(note: RunNote) -> None:
    """Note each run from here on; called in a pool child."""
    instrumentor = CeleryInstrumentor()
    if isinstance(instrumentor, LauncherCeleryInstrumentor):
        instrumentor.runs.note = note


def instrument_celery(settings: TaskSettings) -> None:
    """Instrument Celery, in the place of any instrumentor that is already there."""
    present = CeleryInstrumentor()
    if isinstance(present, LauncherCeleryInstrumentor):
        return
    if present.is_instrumented_by_opentelemetry:
        present.uninstrument()
    LauncherCeleryInstrumentor._instance = None  # noqa: SLF001 - of our own class
    instrumentor = LauncherCeleryInstrumentor()
    instrumentor.settings = settings
    _compat.take_over_celery_instrumentor(instrumentor)
    instrumentor.instrument(skip_dep_check=True)
