# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of broker an application speaks to, in the words of the conventions.

``messaging.system`` is the broker, not Celery; there is no value for Redis, which
instrumentations call ``redis`` all the same
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).
"""

from __future__ import annotations

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

_known: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def messaging_system(app: Any) -> str:
    """Return ``messaging.system`` of an application's broker; connects to nothing."""
    system = _known.get(app)
    if system is None:
        transport = str(app.connection_for_write().transport_cls)
        system = _known[app] = _SYSTEMS.get(transport, transport.rpartition(":")[2])
    return system


def destination_name(exchange: str, routing_key: str) -> str:
    """Return ``messaging.destination.name``: ``exchange:key``, or what there is of it."""
    return f"{exchange}:{routing_key}" if exchange else routing_key
