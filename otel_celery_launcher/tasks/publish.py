# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The PRODUCER span of a publish: from the call to the broker's answer, or its failure.

Around Celery's sender itself, not between its two signals: there is no signal for a
publish that fails, and none that ends the span of a task this process does not know.
Runs wherever a task is published, in the publishing thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace

from otel_celery_launcher import messages
from otel_celery_launcher._compat_start import SpanStarter
from otel_celery_launcher.tasks.errors import record_error
from otel_celery_launcher.tasks.route import route
from otel_celery_launcher.tasks.waits import PUBLISHED_HEADER, RECEIVED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.tasks.attributes import Attributes


class Publisher:
    """Makes the spans of publishes.

    Args:
        tracer: Of the Celery instrumentation.
        attributes: Makes their names and attributes.
    """

    def __init__(self, tracer: trace.Tracer, attributes: Attributes) -> None:
        self._spans = SpanStarter(tracer)
        self._attributes = attributes

    def publish(
        self,
        app: Any,
        send: Callable[..., Any],
        producer: Any,
        name: str,
        message: Any,
        **options: Any,
    ) -> Any:
        """Call Celery's sender inside a span, with the span's context in the headers.

        Args:
            app: The publishing application.
            send: Celery's ``send_task_message``.
            producer: The kombu producer.
            name: Name of the task.
            message: Celery's message: headers, properties, body.
            options: The sender's other arguments.

        Raises:
            Exception: What the sender raises; the span is an error, the context as before.
        """
        headers = dict(options.pop("headers", None) or {})
        headers.pop(RECEIVED_KEY, None)  # a retry hands its request's headers on
        parent = None
        if not trace.get_current_span().get_span_context().is_valid:
            by_hand = {k: v for k, v in headers.items() if isinstance(v, str)}
            parent = propagate.extract(by_hand)
        place = route(app.amqp, options)
        with trace.use_span(
            self._spans.start(
                self._attributes.publish_name(name, place),
                parent,
                trace.SpanKind.PRODUCER,
                lambda: self._attributes.of_publish(app, name, message, place, parent),
            ),
            end_on_exit=True,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            for field in propagate.get_global_textmap().fields:
                headers.pop(field, None)
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            messages.show_context("Injecting trace context into headers", carrier)
            headers.update(carrier)
            headers[PUBLISHED_HEADER] = time.time()
            try:
                return send(producer, name, message, headers=headers, **options)
            except Exception as exc:
                record_error(span, exc)
                raise
