# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The broker: is it reached, and do trace headers come through it unharmed."""

from __future__ import annotations

import uuid
from typing import Any

from kombu import Queue

from otel_celery_launcher.doctor.findings import FAIL, OK, Finding
from otel_celery_launcher.exporter.bounded import run_bounded

# Connecting, then sending and receiving: each may take the time of one.
STEPS = 2

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
    try:
        shown = app.connection_for_write().as_uri()  # without its password
    except Exception as exc:  # noqa: BLE001 - any transport's; its text may hold a password
        seen = f"broker_url cannot be read: {type(exc).__name__}"
        return [_failure(seen, "correct broker_url, or install its transport")]
    got: dict[str, Any] = {}
    errors: list[Exception] = []

    def try_it() -> None:
        try:
            got.update(_round_trip(app, seconds))
        except Exception as exc:  # noqa: BLE001 - any transport's exceptions
            errors.append(exc)

    # Redis's transport knows no timeout: it may wait for an answer for ever.
    is_done = run_bounded([try_it], STEPS * seconds)
    if errors or not is_done:
        why = f"{type(errors[0]).__name__}: {errors[0]}" if errors else "no answer"
        next_ = "start the broker, or correct broker_url"
        return [_failure(f"{shown}: {why}", next_)]
    missing = [name for name in HEADERS if got.get(name) != HEADERS[name]]
    if missing:
        seen = f"{shown} does not hand on the headers {', '.join(missing)}"
        return [_failure(seen, "look for a proxy or plugin that rewrites messages")]
    seen = f"{shown} hands on traceparent and baggage unharmed"
    return [Finding(level=OK, check="broker", seen=seen)]


def _failure(seen: str, next_: str) -> Finding:
    return Finding(level=FAIL, check="broker", seen=seen, next=next_)


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
