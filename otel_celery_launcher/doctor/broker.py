# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The broker: is it reached, and do trace headers come through it unharmed."""

from __future__ import annotations

import uuid
from typing import Any

from kombu import Queue

from otel_celery_launcher.doctor.findings import FAIL, OK, Finding

# What goes there and must come back.
HEADERS = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "baggage": "tenant_id=acme",
}


def check_broker(app: Any, seconds: float) -> list[Finding]:
    """Send a message through a queue of its own and read it; leaves nothing.

    Args:
        app: The application.
        seconds: The longest time to connect, and to wait for the message.
    """
    shown = app.connection_for_write().as_uri()  # without its password
    try:
        got = _round_trip(app, seconds)
    except Exception as exc:  # noqa: BLE001 - any transport's exceptions
        return [
            Finding(
                level=FAIL,
                check="broker",
                seen=f"{shown}: {type(exc).__name__}: {exc}",
                next="start the broker, or correct broker_url",
            )
        ]
    missing = [name for name in HEADERS if got.get(name) != HEADERS[name]]
    if missing:
        return [
            Finding(
                level=FAIL,
                check="broker",
                seen=f"{shown} does not hand on the headers {', '.join(missing)}",
                next="look for a proxy or plugin that rewrites messages",
            )
        ]
    seen = f"{shown} hands on traceparent and baggage unharmed"
    return [Finding(level=OK, check="broker", seen=seen)]


def queue_name() -> str:
    """Return the name of a queue that nobody else has."""
    return f"otel-celery-doctor-{uuid.uuid4()}"


def _round_trip(app: Any, seconds: float) -> dict[str, Any]:
    """Return the headers of a message that went through the broker."""
    name = queue_name()
    got: dict[str, Any] = {}

    def take(_: object, message: Any) -> None:
        got.update(message.headers)
        message.ack()

    with app.connection_for_write(connect_timeout=seconds) as connection:
        connection.ensure_connection(max_retries=1, timeout=seconds)
        channel = connection.default_channel
        queue = Queue(
            name, routing_key=name, exclusive=True, auto_delete=True, durable=False
        )(channel)
        try:
            queue.declare()
            with connection.Producer(channel) as producer:
                producer.publish({}, routing_key=name, headers=HEADERS)
            with connection.Consumer(queue, callbacks=[take]):
                while not got:
                    connection.drain_events(timeout=seconds)
        finally:
            queue.delete()
    return got
