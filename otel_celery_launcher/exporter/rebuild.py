# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames back to spans, in the exporter process, a batch at a time."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.handoff.frames import LENGTH, FrameError

# What a message that passed its checksum can raise when another version wrote it.
_READ_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


def read_spans(resource: Resource, body: bytes) -> list[ReadableSpan]:
    """Return the spans of one message.

    Raises:
        FrameError: Not written by this version.
    """
    spans = []
    position = 0
    try:
        while position < len(body):
            (length,) = LENGTH.unpack_from(body, position)
            position += LENGTH.size
            record = marshal.loads(body[position : position + length])  # noqa: S302
            spans.append(_span(resource, record))
            position += length
    except _READ_ERRORS as exc:
        raise FrameError(f"not a span: {exc!r}") from exc
    return spans


def read_resource(data: bytes) -> Resource:
    """Return a resource.

    Raises:
        FrameError: Not written by this version.
    """
    try:
        attributes, schema_url = marshal.loads(data)  # noqa: S302 - checksummed, ours
        return Resource(attributes, schema_url)
    except _READ_ERRORS as exc:
        raise FrameError(f"not a resource: {exc!r}") from exc


class EndedSpan(ReadableSpan):
    """A span whose end another process has seen."""


def _span(resource: Resource, record: tuple[Any, ...]) -> ReadableSpan:
    (
        name, context, parent, kind, start, end, status, description, attributes,
        dropped_attributes, events, dropped_events, links, dropped_links, scope,
    ) = record  # fmt: skip
    return EndedSpan(
        name=name,
        context=_context(context),
        parent=_context(parent),
        resource=resource,
        attributes=bounded(attributes, dropped_attributes),
        events=_list(
            [Event(n, bounded(a, d), t) for n, t, a, d in events], dropped_events
        ),
        links=_list(
            [Link(_context(c), bounded(a, d)) for c, a, d in links],  # type: ignore[arg-type]
            dropped_links,
        ),
        kind=SpanKind(kind),
        status=Status(StatusCode(status), description),
        start_time=start,
        end_time=end,
        instrumentation_scope=None if scope is None else _scope(marshal.dumps(scope)),
    )


@lru_cache(maxsize=256)
def _scope(data: bytes) -> InstrumentationScope:
    name, version, schema_url, attributes = marshal.loads(data)  # noqa: S302 - ours
    return InstrumentationScope(name, version, schema_url, attributes)


def _context(fields: tuple[Any, ...] | None) -> SpanContext | None:
    if fields is None:
        return None
    trace_id, span_id, is_remote, flags, state = fields
    return SpanContext(
        trace_id, span_id, is_remote, TraceFlags(flags), TraceState(state)
    )


def bounded(attributes: Mapping[str, Any] | None, dropped: int) -> Mapping[str, Any]:
    """Return attributes as the encoder expects them, with their dropped count."""
    if not dropped:
        return attributes or {}
    bounded = BoundedAttributes(attributes=attributes, immutable=False)
    bounded.dropped = dropped
    return bounded


def _list(items: list[Any], dropped: int) -> Sequence[Any]:
    if not dropped:
        return items
    bounded: BoundedList[Any] = BoundedList.from_seq(None, items)
    bounded.dropped = dropped
    return bounded
