# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The messages that a worker has received of late: when, and with a trace context or not.

Runs in the worker's main process, in Celery's signal ``task_received``, once a message.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from opentelemetry import propagate

from otel_celery_launcher.tasks.errors import text_of
from otel_celery_launcher.tasks.propagation import HEADER
from otel_celery_launcher.tasks.waits import RECEIVED_KEY

# How many messages count as recent, and how many producers are named.
RECENT_MESSAGES = 1000
PRODUCERS = 3
ORIGIN_CHARACTERS = 100
UNKNOWN = "somebody who does not say who"

# Headers with a trace context of another kind, in small letters, and the propagator
# that reads them (the entry points of opentelemetry_propagator).
OTHER_CONTEXTS = {
    "b3": "b3",
    "x-b3-traceid": "b3multi",
    "uber-trace-id": "jaeger",
    "x-amzn-trace-id": "xray",
    "traceparent": "tracecontext",
}

# Fields of propagators that say nothing of a trace by themselves.
_NO_TRACE = frozenset({"baggage", "tracestate", "jaeger-baggage"})


class ReceivedMessages:
    """Notes each message as it comes."""

    def __init__(self) -> None:
        # For each message without a context: its producer, and the propagator that
        # could read it, if any. None for a message with a context.
        self._recent: deque[tuple[str, str] | None] = deque(maxlen=RECENT_MESSAGES)
        self._fields: tuple[str, ...] = ()

    def note(self, fields: dict[Any, Any]) -> None:
        """Note a message.

        Args:
            fields: Of its request; the time at which it came is added.
        """
        fields[RECEIVED_KEY] = time.time()
        if not self._fields:
            self._fields = _fields_of_a_trace()
        for name in self._fields:
            if name in fields:
                self._recent.append(None)
                return
        origin = fields.get("origin")
        known = UNKNOWN if origin is None else text_of(origin)[:ORIGIN_CHARACTERS]
        others = (
            OTHER_CONTEXTS[name.lower()]
            for name in fields
            if isinstance(name, str) and name.lower() in OTHER_CONTEXTS
        )
        self._recent.append((known, next(others, "")))

    def status(self) -> dict[str, Any]:
        """Return how many recent messages had no context, and their main producers.

        ``unread`` counts those with a context for a propagator that is not configured.
        """
        without = [each for each in list(self._recent) if each is not None]
        origins = Counter(origin for origin, _ in without)
        return {
            "messages": len(self._recent),
            "without_context": len(without),
            "from": dict(origins.most_common(PRODUCERS)),
            "unread": dict(Counter(other for _, other in without if other)),
        }


def _fields_of_a_trace() -> tuple[str, ...]:
    """Return the headers of which a message with a trace context has one."""
    fields = set(propagate.get_global_textmap().fields) - _NO_TRACE
    return (*sorted(fields), HEADER)
