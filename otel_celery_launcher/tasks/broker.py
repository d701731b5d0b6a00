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
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from otel_celery_launcher.errors import MALFORMED_ERRORS

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
        try:
            found = _look_at(app.connection_for_write())
        except (ImportError, *MALFORMED_ERRORS):  # as the publish itself will say
            found = Broker("unknown", None, None)
        _known[app] = found
    return found


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


def destination_name(exchange: str, routing_key: str) -> str:
    """Return ``messaging.destination.name``: ``exchange:key``, or what there is of it."""
    return f"{exchange}:{routing_key}" if exchange else routing_key
