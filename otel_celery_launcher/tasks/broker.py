# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of broker an application speaks to, in the words of the conventions.

``messaging.system`` is the broker, not Celery; there is no value for Redis, which
instrumentations call ``redis`` all the same
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

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


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker: ``messaging.system``, and where it is if that is known."""

    system: str
    address: str | None
    port: int | None


_known: WeakKeyDictionary[Any, Broker] = WeakKeyDictionary()


def broker_of(app: Any) -> Broker:
    """Return an application's broker; connects to nothing."""
    found = _known.get(app)
    if found is None:
        connection = app.connection_for_write()
        transport = str(connection.transport_cls)
        system = _SYSTEMS.get(transport, transport.rpartition(":")[2])
        address, port = None, None
        if system in _HAVE_ADDRESS and connection.hostname:
            address = str(connection.hostname)
            port = connection.port or connection.get_transport_cls().default_port
        found = _known[app] = Broker(system, address, port)
    return found


def destination_name(exchange: str, routing_key: str) -> str:
    """Return ``messaging.destination.name``: ``exchange:key``, or what there is of it."""
    return f"{exchange}:{routing_key}" if exchange else routing_key
