"""Where a message goes, compared with what Celery publishes to."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, signals
from kombu import Exchange, Queue

from otel_celery_launcher.tasks.destination import broker_of, publish_destination


def an_app(**settings: Any) -> Celery:
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


TOPICS = Queue("topics", Exchange("events", type="topic"), routing_key="a.b")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "emails"},
        {"queue": TOPICS},
        {"exchange": "events", "routing_key": "a.c"},
        {"exchange": "events"},
        {"queue": TOPICS, "routing_key": "a.d"},
        {"exchange": Exchange("things", type="fanout"), "routing_key": "x"},
        {"queue": "emails", "exchange_type": "topic"},
    ],
    ids=str,
)
@pytest.mark.parametrize("default", ["celery", "mine"])
def test_route_is_what_celery_publishes_to(
    options: dict[str, Any], default: str
) -> None:
    """The rules of `send_task_message`, on the Celery that is installed."""
    app = an_app(task_default_queue=default)
    sent: list[tuple[str, str]] = []

    def look(exchange: Any = None, routing_key: Any = None, **_: Any) -> None:
        name = getattr(exchange, "name", exchange)
        sent.append((str(name or ""), str(routing_key or "")))

    message = app.amqp.as_task_v2("1", "task")
    signals.before_task_publish.connect(look)
    try:
        with app.connection_for_write() as connection:
            producer = app.amqp.Producer(connection)
            app.amqp.send_task_message(producer, "task", message, **options)
    finally:
        signals.before_task_publish.disconnect(look)
    assert sent == [publish_destination(app.amqp, options)[:2]]


@pytest.mark.parametrize(
    ("broker", "system"),
    [
        ("amqp://h//", "rabbitmq"),
        ("pyamqp://h//", "rabbitmq"),
        ("redis://h/0", "redis"),
        ("rediss://h/0", "redis"),
        ("memory://", "memory"),
        ("redis://a/0;redis://b/0", "redis"),
    ],
)
def test_messaging_system_is_the_broker(broker: str, system: str) -> None:
    assert broker_of(Celery(broker=broker, set_as_current=False)).system == system
