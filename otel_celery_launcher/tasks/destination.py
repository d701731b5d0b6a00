# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Where a message goes: its broker, exchange and routing key, in the conventions' words.

``messaging.system`` is the broker, not Celery. The conventions have no value for Redis,
but instrumentations use ``redis``
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).

Runs wherever a task is published or run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from otel_celery_launcher.errors import MALFORMED_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Exchange, routing key and exchange type of a publish.
Destination = tuple[str, str, str]


# Prefix that native delayed delivery adds to the routing key of a delayed message: the
# bits of the delay (kombu ``transport/native_delayed_delivery.py``, 5.5 to 5.7).
_DELAY = re.compile(r"(?:[01]\.){28}")


def publish_destination(amqp: Any, options: Mapping[str, Any]) -> Destination:
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
    name = str(getattr(exchange, "name", exchange) or "")
    return *without_delay(amqp.app, name, str(routing_key or "")), kind


def without_delay(app: Any, exchange: str, routing_key: str) -> tuple[str, str]:
    """Return exchange and routing key of a queue, also for a delayed message.

    With quorum queues, a delayed message goes through exchanges whose routing keys
    contain the delay, so each delay would be a different destination.
    """
    delay = _DELAY.match(routing_key)
    if delay is None:
        return exchange, routing_key
    own = routing_key[delay.end() :]
    for queue in app.amqp.queues.values():
        if queue.routing_key == own and queue.exchange is not None:
            return queue.exchange.name or "", own
    return "", own


_SYSTEMS = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "pyamqp": "rabbitmq",
    "librabbitmq": "rabbitmq",
    "redis": "redis",
    "rediss": "redis",
    "sentinel": "redis",
    "sqs": "aws_sqs",
    "gcpubsub": "gcp_pubsub",
    "confluentkafka": "kafka",
    "azureservicebus": "servicebus",
}

# Whose host name in a broker's URL is the name of a host.
_HAVE_ADDRESS = frozenset({"rabbitmq", "redis", "kafka", "servicebus"})


class Broker(NamedTuple):
    """A broker: ``messaging.system``, and where it is if that is known."""

    system: str
    address: str | None
    port: int | None


_known: WeakKeyDictionary[Any, Broker] = WeakKeyDictionary()


def broker_of(app: Any) -> Broker:
    """Return an application's broker; connects to nothing."""
    broker = _known.get(app)
    if broker is None:
        try:
            broker = _look_at(app.connection_for_write())
        except (ImportError, *MALFORMED_ERRORS):  # as the publish itself will say
            broker = Broker("unknown", None, None)
        _known[app] = broker
    return broker


def _look_at(connection: Any) -> Broker:
    transport = str(connection.transport_cls)
    system = _SYSTEMS.get(transport, transport.rpartition(":")[2])
    hostname = connection.hostname
    if system not in _HAVE_ADDRESS or not hostname:
        return Broker(system, None, None)
    # redis+socket:///run/redis.sock; kombu keeps the rest of the URL, its password with it.
    if str(hostname).startswith("socket:"):
        return Broker(system, urlsplit(hostname).path, None)
    port = connection.port or connection.get_transport_cls().default_port
    return Broker(system, str(hostname), port)


def destination_of_delivery(app: Any, delivery: object) -> str:
    """Return ``messaging.destination.name`` of a delivery, which may hold anything."""
    if type(delivery) is not dict:
        return ""
    exchange, routing_key = delivery.get("exchange"), delivery.get("routing_key")
    return destination_name(
        *without_delay(
            app,
            exchange if type(exchange) is str else "",
            routing_key if type(routing_key) is str else "",
        )
    )


def destination_name(exchange: str, routing_key: str) -> str:
    """Return ``messaging.destination.name``: ``exchange:key``, or what there is of it."""
    return f"{exchange}:{routing_key}" if exchange else routing_key
