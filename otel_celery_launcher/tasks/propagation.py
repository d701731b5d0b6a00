# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Extracts a task's trace context from its message.

The configured propagators first look in the message's headers. If these carry none, the
fields that hand-written instrumentations use are searched, so that a fleet can be
migrated one service at a time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter, default_getter
from opentelemetry.trace import NonRecordingSpan

from otel_celery_launcher import messages
from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.span_fields import (
    FLAGS,
    valid_context,
)
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.tasks.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import SpanContext

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00.
_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch

# A header, and an entry in the payload, that hold a whole carrier.
HEADER = "otel_context"
PAYLOAD = "_otel"


class RequestGetter(Getter[Any]):
    """Reads headers, which are attributes of a request.

    A message may contain anything, but propagators require text. (The getter of older
    releases of the instrumentation passes numbers on, and propagators raise.)
    """

    def get(self, carrier: Any, key: str) -> list[str] | None:
        """Return a header's texts, None where there is none."""
        value = getattr(carrier, key, None)
        if value is None:
            return None
        if type(value) in (list, tuple):
            return [text_of(each) for each in value]
        return [text_of(value)]

    def keys(self, carrier: Any) -> list[str]:
        """Return the names of all headers."""
        return list(vars(carrier))


REQUEST = RequestGetter()


def parent_of(request: Any) -> Context:
    """Return the context that a task's message carries; empty where it carries none."""
    fast = fast_parent(request.__dict__)
    if fast is not None:
        context = contexts.context_with_only(NonRecordingSpan(fast))
    else:
        context = extract(request, Context(), REQUEST)
        if not _has_span(context):  # baggage may come without a trace
            context = _handed(request, context)
    if messages.shows_contexts():
        carried: dict[str, str] = {}
        propagate.inject(carried, context)
        messages.show_context("Extracting trace context from headers", carried)
    return context


def fast_parent(fields: Mapping[str, Any]) -> SpanContext | None:
    """Return the context that the default propagators extract from most messages.

    Handles only a ``traceparent`` as they write it, without any other of their headers.
    Returns None for anything else: the propagators must be called, which takes four
    times as long.
    """
    text = fields.get("traceparent")
    if text is None or "tracestate" in fields or "baggage" in fields:
        return None
    match = _TRACEPARENT(text) if type(text) is str else None
    if match is None or not contexts.has_default_propagators():
        return None
    first, second, flags = match.groups()
    trace_id, span_id = int(first, 16), int(second, 16)
    if not (trace_id and span_id):
        return None
    return valid_context(trace_id, span_id, FLAGS[int(flags, 16)], is_remote=True)


# What the default propagators read and write.
W3C_FIELDS = frozenset({"traceparent", "tracestate", "baggage"})


def w3c_fields(context: SpanContext) -> dict[str, str]:
    """Return what ``TraceContextTextMapPropagator`` writes of a valid context."""
    trace_id, span_id, _, flags, state, _ = context  # a tuple by declaration
    fields = {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"}
    if state:
        fields["tracestate"] = state.to_header()
    return fields


def _handed(request: Any, context: Context) -> Context:
    """Return what a hand-written instrumentation has put into a message."""
    for carrier in _carriers(request):
        handed = extract(carrier, context)
        if _has_span(handed):
            return handed
    return context


def extract(
    carrier: Any,
    context: Context | None = None,
    getter: Getter[Any] = default_getter,
) -> Context:
    """Extract a context by the propagators; ignore headers that they cannot read.

    Args:
        carrier: Headers.
        context: The context to extend; None for the current one.
        getter: Reads the headers.
    """
    if context is None:
        context = get_current()
    try:
        return propagate.extract(carrier, context, getter)
    except MALFORMED_ERRORS:  # a third-party propagator, any client's header
        return context


def _has_span(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def _carriers(request: Any) -> Iterator[dict[str, str]]:
    places = [getattr(request, HEADER, None)]
    if type(request.kwargs) is dict:
        places.append(request.kwargs.get(PAYLOAD))
    arguments = request.args
    if type(arguments) in (list, tuple) and arguments and type(arguments[0]) is dict:
        places.append(arguments[0].get(PAYLOAD))
    for place in places:
        if type(place) is dict:
            yield {text_of(key): text_of(value) for key, value in place.items()}
