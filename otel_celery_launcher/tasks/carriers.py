# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Where a task's trace context is looked for.

First in the message's headers, by the configured propagators. Where they hold none, in
the places that hand-written instrumentations use, so that a fleet can be migrated a
service at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.celery import celery_getter

from otel_celery_launcher import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

# A header, and an entry in the payload, that hold a whole carrier.
HEADER = "otel_context"
PAYLOAD = "_otel"


def parent_of(request: Any) -> Context:
    """Return the context that a task's message carries; empty where it carries none."""
    found = propagate.extract(request, Context(), celery_getter)
    if not _has_span(found):  # baggage may come without a trace
        for carrier in _carriers(request):
            handed = propagate.extract(carrier, found)
            if _has_span(handed):
                found = handed
                break
    if messages.shows_contexts():
        carried: dict[str, str] = {}
        propagate.inject(carried, found)
        messages.show_context("Extracting trace context from headers", carried)
    return found


def _has_span(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def _carriers(request: Any) -> Iterator[dict[str, str]]:
    places = [getattr(request, HEADER, None)]
    if isinstance(request.kwargs, Mapping):
        places.append(request.kwargs.get(PAYLOAD))
    if request.args and isinstance(request.args[0], Mapping):
        places.append(request.args[0].get(PAYLOAD))
    for place in places:
        if isinstance(place, Mapping):
            yield {str(key): str(value) for key, value in place.items()}
