# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames back to spans, in the exporter process, a batch at a time."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.compat.span_fields import MadeLate
from otel_celery_launcher.ipc.datagrams import LENGTH, FrameError
from otel_celery_launcher.ipc.span_frames import (
    ATTRIBUTES,
    BEGUN_FIELDS,
    END,
    ENDED_FIELDS,
)

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
    while position < len(body):
        try:
            (length,) = LENGTH.unpack_from(body, position)
        except struct.error as exc:
            raise FrameError(f"not a length: {exc!r}") from exc
        position += LENGTH.size
        spans.append(read_span(resource, body[position : position + length]))
        position += length
    return spans


def read_span(resource: Resource, data: bytes) -> ReadableSpan:
    """Return one span.

    Raises:
        FrameError: Not written by this version.
    """
    try:
        record, common = _record(data)
        make = PlainSpan if _is_plain(record) else _span
        return make(resource, record, common)
    except _READ_ERRORS as exc:
        raise FrameError(f"not a span: {exc!r}") from exc


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


class PlainSpan(MadeLate, ReadableSpan):
    """A span like most: no event, no link, no status, no state, nothing dropped.

    Its fields are read when somebody asks for them; the encoder takes the frame.

    Args:
        resource: Its resource.
        record: Its fields, in the order of ``contents`` in ``compat/span_fields.py``.
        common: Attributes that come before those of the record, encoded; may be empty.
    """

    def __init__(self, resource: Resource, record: list[Any], common: bytes) -> None:
        self.frame = resource, record, common

    def whole_span(self) -> ReadableSpan:
        """Return the span."""
        return _span(*self.frame)


def _record(data: bytes) -> tuple[list[Any], bytes]:
    """Return the fields of a span, and attributes before its own, still encoded.

    One that ended as it began has its start in it.
    """
    found = marshal.loads(data)  # noqa: S302 - ours
    ended, changes = None, {}
    if len(found) == ENDED_FIELDS:
        start, ended, changes = found
        found = marshal.loads(start)  # noqa: S302 - ours
    is_begun = len(found) == BEGUN_FIELDS
    record, common = _begun(found) if is_begun else (list(found), b"")
    if changes:
        record[ATTRIBUTES] = {**record[ATTRIBUTES], **changes}
    record[END] = ended or record[END]
    return record, common


def _begun(record: tuple[Any, ...]) -> tuple[list[Any], bytes]:
    """Return a span's record, by what ``encode_begun`` has written.

    And the attributes in common, encoded, which come before its own.
    """
    (
        name, trace_id, items, span_id, parent_id, is_remote, flags, parent_flags,
        kind, start, common, own, scope,
    ) = record  # fmt: skip
    context = (trace_id, span_id, False, flags, items)
    parent = (trace_id, parent_id, is_remote, parent_flags, items)
    return [
        *(name, context, parent, kind, start),
        *(None, 0, None, own, 0, [], 0, [], 0, scope),
    ], common


def _is_plain(record: list[Any]) -> bool:
    (
        name, context, _, _, start, end, status, description, _,
        dropped_attributes, events, dropped_events, links, dropped_links, _,
    ) = record  # fmt: skip
    return (
        type(name) is str
        and name != ""
        and type(start) is type(end) is int
        and start > 0 < end
        and not (status or description or events or links or context[4])
        and not (dropped_attributes or dropped_events or dropped_links)
    )


def _span(resource: Resource, record: Sequence[Any], common: bytes) -> ReadableSpan:
    (
        name, context, parent, kind, start, end, status, description, attributes,
        dropped_attributes, events, dropped_events, links, dropped_links, scope,
    ) = record  # fmt: skip
    if common:
        attributes = {**marshal.loads(common), **attributes}  # noqa: S302 - ours
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
        instrumentation_scope=None if scope is None else _scope(scope),
    )


@lru_cache(maxsize=256)
def _scope(data: bytes) -> InstrumentationScope:
    name, version, schema_url, attributes = marshal.loads(data)  # noqa: S302 - ours
    return InstrumentationScope(name, version, schema_url, attributes)


def rewritten(
    span: ReadableSpan,
    attributes: Callable[[Mapping[str, Any] | None], Mapping[str, Any]],
    text: Callable[[str], str],
    description: Callable[[str | None], str | None],
) -> ReadableSpan:
    """Return a copy of a span that has ended.

    Args:
        span: The span.
        attributes: Gives the attributes of the span, its events and its links.
        text: Gives the names of the span and its events.
        description: Gives the text of the status.
    """
    return EndedSpan(
        name=text(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=bounded(attributes(span.attributes), span.dropped_attributes),
        events=_list(
            [
                Event(text(each.name), attributes(each.attributes), each.timestamp)
                for each in span.events
            ],
            span.dropped_events,
        ),
        links=_list(
            [Link(each.context, attributes(each.attributes)) for each in span.links],
            span.dropped_links,
        ),
        kind=span.kind,
        status=Status(span.status.status_code, description(span.status.description)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


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
