# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The PRODUCER span of a publish: from the call to the broker's answer, or its failure.

The span surrounds Celery's sender itself. Celery's two signals would not do: there is
none for a publish that fails, and none to end the span of a task unknown to this
process.
Runs wherever a task is published, in the publishing thread.
"""

from __future__ import annotations

import inspect
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator

from otel_celery_launcher import messages
from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.span_starter import SpanStarter
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.tasks import schedule
from otel_celery_launcher.tasks.destination import publish_destination
from otel_celery_launcher.tasks.ending import hand_over
from otel_celery_launcher.tasks.errors import record_error
from otel_celery_launcher.tasks.plumbing import SuppressingProducer, as_the_application
from otel_celery_launcher.tasks.propagation import W3C_FIELDS, extract, w3c_fields
from otel_celery_launcher.tasks.waits import (
    PUBLISHED_HEADER,
    RECEIVED_KEY,
    published_now,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, SpanContext

    from otel_celery_launcher.settings.tasks import TaskSettings
    from otel_celery_launcher.tasks.attributes import Attributes
    from otel_celery_launcher.tasks.destination import Destination
    from otel_celery_launcher.tasks.ending import Front
    from otel_celery_launcher.tasks.metrics import TaskMetrics

_BAGGAGE = W3CBaggagePropagator()


class Publisher:
    """Makes the spans of publishes.

    Args:
        tracer: Of the Celery instrumentation.
        attributes: Makes their names and attributes.
        settings: Whether the broker's own calls are spans.
        front: Receives the spans if it is the only processor; None without one.
        metrics: Records all publishes; None without metrics.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        attributes: Attributes,
        settings: TaskSettings,
        front: Front | None = None,
        metrics: TaskMetrics | None = None,
    ) -> None:
        self._front = front
        self._metrics = metrics
        self.change(tracer, attributes, settings)

    def change(
        self, tracer: trace.Tracer, attributes: Attributes, settings: TaskSettings
    ) -> None:
        """Use another tracer, other attributes and settings from now on."""
        self._suppresses_clients = not settings.has_plumbing
        self._has_labels = bool(settings.labels)
        self._spans = SpanStarter(tracer, trace.SpanKind.PRODUCER)
        self._attributes = attributes

    def publish(
        self,
        app: Any,
        send: Callable[..., Any],
        producer: Any,
        name: str,
        message: Any,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """Call Celery's sender inside a span, with the span's context in the headers.

        Args:
            app: The publishing application.
            send: Celery's ``send_task_message``; what follows are its arguments.
            producer: The kombu producer.
            name: Name of the task.
            message: Headers, properties, body.
            *arguments: By position.
            **options: By name.

        Raises:
            Exception: What the sender raises; the span is an error.
        """
        if arguments:  # Celery itself names them
            options |= _named(send, arguments)
        if self._suppresses_clients:
            producer, send = SuppressingProducer(producer), as_the_application(send)
        headers = dict(options.pop("headers", None) or {})
        headers.pop(RECEIVED_KEY, None)  # a retry hands its request's headers on
        destination = publish_destination(app.amqp, options)
        span = self._start(app, name, message, headers, options, destination)
        token = contexts.attach(contexts.with_span(span))
        try:
            _inject(headers, span)
            call = partial(send, producer, name, message, headers=headers, **options)
            return self._send(call, app, name, destination, span)
        finally:
            contexts.detach(token)
            self._end(span)

    def _end(self, span: Span) -> None:
        """End a span; if it has not changed, it needs no object of the SDK's."""
        front, spans = self._front, self._spans
        if not hand_over(front, spans, span, b"", {}, ends_task=False, in_flight=None):
            span.end()

    def _send(
        self,
        call: Callable[[], Any],
        app: Any,
        name: str,
        destination: Destination,
        span: Span,
    ) -> Any:
        """Publish; record how long it took, and the error if there is one."""
        began = time.perf_counter()
        error: BaseException | None = None
        try:
            return call()
        except BaseException as exc:
            error = exc
            if isinstance(exc, Exception):
                record_error(span, exc)
            raise
        finally:
            if self._metrics is not None:
                seconds = time.perf_counter() - began
                self._count(app, name, destination, seconds, error, span)
            error = None  # which has this frame

    def _count(
        self,
        app: Any,
        name: str,
        destination: Destination,
        seconds: float,
        error: BaseException | None,
        span: Span,
    ) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        try:
            metrics.end_publish(app, name, destination, seconds, error, span)
        except MALFORMED_ERRORS:  # a name that is none
            return

    def _start(
        self,
        app: Any,
        name: str,
        message: Any,
        headers: dict[Any, Any],
        options: Mapping[str, Any],
        destination: Destination,
    ) -> Span:
        """Start the span below the current one, or below what the headers carry."""
        parent = None
        above = contexts.current_span().get_span_context()
        if not above.is_valid:
            parent = _carried(headers)
        label = ""
        if self._has_labels:
            with suppress(*MALFORMED_ERRORS):  # of a message that nobody has thought of
                label = self._attributes.label(name, *_arguments(message))
        entry = _entry(headers, options)
        if parent is None and self._attributes.has_fast_path:
            fast = self._start_fast(app, name, message, destination, above, entry)
            if fast is not None:
                return fast

        def attributes() -> dict[str, Any]:
            try:
                return self._attributes.of_publish(
                    app, name, message, destination, parent, entry, label
                )
            except MALFORMED_ERRORS:  # of a message that nobody has thought of
                return {"celery.action": "apply_async", "celery.task_name": name}

        return self._spans.start(
            self._attributes.publish_name(name, destination, label),
            parent,
            trace.SpanKind.PRODUCER,
            attributes,
        )

    def _start_fast(
        self,
        app: Any,
        name: str,
        message: Any,
        destination: Destination,
        above: SpanContext,
        entry: object,
    ) -> Span | None:
        """Start a span at a third of the cost of ``SpanStarter.start``; None if it cannot."""
        if not above.is_valid:
            template = self._spans.template_of_roots()
        elif span := self._spans.unrecorded_below(above):
            return span
        else:
            template = self._spans.template_below(above)
        if template is None:
            return None
        try:
            found = self._attributes.of_fast_publish(
                app, name, message, destination, entry
            )
        except MALFORMED_ERRORS:  # of a message that nobody has thought of
            return None
        if found is None:
            return None
        shared, own = found
        return template.span(
            above if above.is_valid else None,
            self._attributes.publish_name(name, destination, ""),
            shared.attributes,
            shared.encoded,
            own,
        )


def _entry(*places: Mapping[Any, Any]) -> object:
    """Return the name of the schedule's entry that is published; None for no entry."""
    entry: object = schedule.current_entry.get() or None
    for fields in places:
        if entry is None:
            entry = fields.get("periodic_task_name")
    return entry


def _named(send: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return arguments of Celery's sender, after its first three, by their names."""
    names = [*inspect.signature(send).parameters][3:]
    return dict(zip(names, arguments, strict=False))


def _arguments(message: Any) -> tuple[object, object]:
    """Return the arguments of a message: protocol 2 has a tuple, 1 a mapping."""
    body = message.body
    if isinstance(body, dict):
        return body.get("args"), body.get("kwargs")
    return (body[0], body[1]) if isinstance(body, (list, tuple)) else (None, None)


def _carried(headers: dict[Any, Any]) -> Context | None:
    """Return the context that headers carry; None for the current one."""
    if not headers:
        return None
    if contexts.has_default_propagators() and W3C_FIELDS.isdisjoint(headers):
        return None
    return extract({k: v for k, v in headers.items() if type(k) is str})


def _inject(headers: dict[Any, Any], span: Span) -> None:
    """Put the current context, which has this span, into the headers.

    If a propagator writes anything, that replaces all its fields. If it has nothing to
    write, its fields stay: the application may have set them. What the default ones
    write of the span is written here at a quarter of their cost.
    """
    carrier: dict[str, str] = {}
    propagators: tuple[TextMapPropagator, ...] = ()
    if contexts.has_default_propagators():
        context = span.get_span_context()
        if context.is_valid:
            headers.pop("tracestate", None)
            carrier = w3c_fields(context)
        if contexts.has_baggage():
            propagators = (_BAGGAGE,)
    else:
        propagators = contexts.single_propagators(propagate.get_global_textmap())
    for each in propagators:
        written: dict[str, str] = {}
        try:
            each.inject(written)
        except MALFORMED_ERRORS:  # somebody else's, with a context that it cannot write
            continue
        if written:
            for field in each.fields:
                headers.pop(field, None)
            carrier.update(written)
    messages.show_context("Injecting trace context into headers", carrier)
    headers.update(carrier)
    headers[PUBLISHED_HEADER] = published_now()
