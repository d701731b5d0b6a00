# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: what they are made of.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_span_fields.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.trace import DEFAULT_TRACE_STATE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


# By number: making one takes longer than finding it.
FLAGS = tuple(map(trace_api.TraceFlags, range(256)))


def valid_context(
    trace_id: int,
    span_id: int,
    flags: trace_api.TraceFlags,
    state: trace_api.TraceState = DEFAULT_TRACE_STATE,
    *,
    is_remote: bool,
) -> trace_api.SpanContext:
    """Return a span context of ids that are known to be valid."""
    fields = (trace_id, span_id, is_remote, flags, state, True)
    return tuple.__new__(trace_api.SpanContext, fields)


class Lazy:
    """A mixin for a span whose fields are made on first access.

    There is no lock, since a fork could copy it locked: if two threads make the fields
    at once, those of one are kept.
    """

    def materialize(self) -> ReadableSpan:
        """Return a span with all fields."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        fields = vars(self)
        if fields:  # a copy that is being made has none
            for each, value in vars(self.materialize()).items():
                fields.setdefault(each, value)
        if name not in fields:
            raise AttributeError(name)
        return fields[name]


def contents(span: ReadableSpan) -> tuple[Any, ...]:
    """Return what a span is made of, once no thread changes it any more.

    Name, context, parent, number of its kind, start, end, number and description of its
    status, attributes, events and links with how many of each were dropped, scope. Its
    properties would copy them, one by one and under locks.
    """
    status = span._status
    if getattr(type(span), "has_parts", False):  # which it may not need
        find = vars(span).get
        attributes, events, links = find("_attributes"), find("_events"), find("_links")
    else:
        attributes, events, links = span._attributes, span._events, span._links
    return (
        span._name,
        span._context,
        span._parent,
        span._kind._value_,
        span._start_time,
        span._end_time,
        status._status_code._value_,
        status._description,
        dictionary(attributes),
        getattr(attributes, "dropped", 0),
        getattr(events, "_dq", events),
        getattr(events, "dropped", 0),
        getattr(links, "_dq", links),
        getattr(links, "dropped", 0),
        span._instrumentation_scope,
    )


def dictionary(attributes: Any) -> dict[str, Any]:
    """Return attributes as the dictionary that the SDK's own kind keeps; not a copy."""
    fields = getattr(attributes, "_dict", attributes)
    return fields if type(fields) is dict else dict(fields or {})
