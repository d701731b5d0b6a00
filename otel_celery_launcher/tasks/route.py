# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Where a task is published to, before it is.

Runs wherever a task is published.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Exchange, routing key and exchange type of a publish.
Place = tuple[str, str, str]


# What native delayed delivery puts before the routing key of a message that waits: the bits
# of its delay (kombu ``transport/native_delayed_delivery.py``, 5.5 to 5.7).
_DELAY = re.compile(r"(?:[01]\.){28}")


def route(amqp: Any, options: Mapping[str, Any]) -> Place:
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
    """Return exchange and routing key of a queue, for messages that wait for a while, too.

    With quorum queues such a message goes through exchanges whose routing keys hold its
    delay; each delay would be another destination.
    """
    delay = _DELAY.match(routing_key)
    if delay is None:
        return exchange, routing_key
    own = routing_key[delay.end() :]
    for queue in app.amqp.queues.values():
        if queue.routing_key == own and queue.exchange is not None:
            return queue.exchange.name or "", own
    return "", own
