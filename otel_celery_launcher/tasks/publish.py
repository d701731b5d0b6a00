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
from otel_celery_launcher.tasks.broker import destination_name, messaging_system
from otel_celery_launcher.tasks.errors import record_error
from otel_celery_launcher.tasks.waits import PUBLISHED_HEADER, RECEIVED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Publisher:
    """Makes the spans of publishes.

    Args:
        tracer: Of the Celery instrumentation.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

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
        with self._tracer.start_as_current_span(
            f"apply_async/{name}",
            context=parent,
            kind=trace.SpanKind.PRODUCER,
            attributes=_attributes(app, name, message, options),
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


def _attributes(
    app: Any, name: str, message: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is known before the message is sent, for samplers, too."""
    task_id = message.headers.get("id")
    if task_id is None:  # protocol 1
        task_id = message.body.get("id")
    found = {
        "celery.action": "apply_async",
        "celery.task_name": name,
        "messaging.message.id": task_id,
        "messaging.system": messaging_system(app),
    }
    exchange, routing_key, kind = route(app.amqp, options)
    if exchange:
        found["celery.exchange"] = exchange
    if routing_key:
        found["messaging.destination"] = routing_key
        found["messaging.destination.name"] = destination_name(exchange, routing_key)
    if kind in ("direct", "topic"):
        found["messaging.destination_kind"] = "queue" if kind == "direct" else kind
    return found


def route(amqp: Any, options: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return exchange, routing key and exchange type that Celery will use.

    The rules of ``send_task_message`` (celery ``app/amqp.py``); a test compares them with
    what is published.
    """
    queue, exchange = options.get("queue"), options.get("exchange")
    routing_key = options.get("routing_key")
    if queue is None and exchange is None:
        queue = amqp.default_queue
    if isinstance(queue, str):
        queue = amqp.queues[queue]
    own = getattr(queue, "exchange", None)
    kind = options.get("exchange_type") or getattr(own, "type", None) or "direct"
    if (not exchange or not routing_key) and kind == "direct":
        exchange, routing_key = "", getattr(queue, "name", None)
    elif exchange is None:
        exchange = getattr(own, "name", None) or amqp.default_exchange
        routing_key = (
            routing_key
            or getattr(queue, "routing_key", None)
            or amqp.app.conf.task_default_routing_key
        )
    return str(getattr(exchange, "name", exchange) or ""), str(routing_key or ""), kind
