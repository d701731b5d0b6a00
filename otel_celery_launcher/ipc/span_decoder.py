# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames back to spans: in the exporter process, and for runs whose process was killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.compat.span_fields import Lazy
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.marshalled import READ_ERRORS, load
from otel_celery_launcher.ipc.span_frames import (
    COUNTED,
    COUNTED_START,
    RUN_END,
    RUN_START,
    SPAN,
    CountedRun,
    RunStart,
    SpanRecord,
    Unobserved,
    encode_scope,
    encode_unobserved,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def read_span(resource: Resource, data: bytes) -> ReadableSpan:
    """Return a span.

    Raises:
        FrameError: Not written by this version.
    """
    try:
        record, shared = _read(data)
        make = FramedSpan if _has_fast_encoding(record) else _span
        return make(resource, record, shared)
    except READ_ERRORS as exc:
        raise FrameError(f"not a span: {exc!r}") from exc


def ended_span(unobserved: Unobserved) -> ReadableSpan:
    """Return a span that ends as it began, in the process that has begun it."""
    origin, _, ended, changes = unobserved
    template, name, context, parent, started, _, shared, own = origin
    if context.trace_state:
        return read_span(template.resource, encode_unobserved(unobserved))
    trace_id, span_id, _, flags, _, _ = context  # a tuple by declaration
    of_parent = None
    if parent is not None:
        of_parent = (parent[0], parent[1], parent[2], int(parent[3]), ())
    record = SpanRecord(
        name, (trace_id, span_id, False, int(flags), ()), of_parent, template.kind,
        started, ended, 0, None, {**own, **changes}, 0, [], 0, [], 0,
        encode_scope(template.scope),
    )  # fmt: skip
    span = FramedSpan(template.resource, record, shared)
    vars(span)["_context"] = context
    return span


def framed_span(resource: Resource, record: SpanRecord) -> FramedSpan | None:
    """Return a span with a record; None if the SDK has to encode it."""
    return FramedSpan(resource, record, b"") if _has_fast_encoding(record) else None


def read_counted_run(data: bytes) -> CountedRun:
    """Return what is counted of a run in flight, whether it has a span or not.

    Raises:
        FrameError: Not written by this version.
    """
    try:
        if data[:1] == COUNTED:
            _, start = COUNTED_START.unpack_from(data)
            task, system, destination = load(data[COUNTED_START.size :])
            return CountedRun(task, system, destination, start)
        record, shared = _read(data)
        attributes = {**(load(shared) if shared else {}), **record.attributes}
    except READ_ERRORS as exc:
        raise FrameError(f"not a run: {exc!r}") from exc
    return CountedRun(
        str(attributes.get("celery.task_name", "")),
        str(attributes.get("messaging.system", "")),
        str(attributes.get("messaging.destination.name", "")),
        record.start or 0,
    )


class EndedSpan(ReadableSpan):
    """A span whose end another process has seen."""


class FramedSpan(Lazy, ReadableSpan):
    """A lazy span without events, links, status, state and dropped items, as most are.

    Its fields are decoded on first access; ``delivery/span_encoder.py`` uses
    the frame instead.

    Args:
        resource: Its resource.
        record: Its fields.
        shared: Attributes that come before those of the record, encoded; may be empty.
    """

    def __init__(self, resource: Resource, record: SpanRecord, shared: bytes) -> None:
        self.frame = resource, record, shared

    @property
    def context(self) -> SpanContext | None:
        """Its context, which the SDK's queue asks for, without any other field."""
        fields = vars(self)
        if "_context" not in fields:
            fields["_context"] = _context(self.frame[1].context)
        return fields["_context"]  # type: ignore[no-any-return]

    def materialize(self) -> ReadableSpan:
        """Return the span with all its fields."""
        return _span(*self.frame)


def _read(data: bytes) -> tuple[SpanRecord, bytes]:
    """Return the fields of a span, and attributes before its own, still encoded."""
    kind, fields = data[:1], load(data[1:])
    if kind == SPAN:
        return SpanRecord._make(fields), b""
    if kind == RUN_START:
        return _run(fields, None, {})
    if kind == RUN_END:
        start, ended, changes = fields
        if start[:1] == RUN_START:
            return _run(load(start[1:]), ended, changes)
    raise ValueError(f"no kind of frame: {kind!r}")


def _run(
    fields: RunStart, ended: int | None, changes: dict[str, str]
) -> tuple[SpanRecord, bytes]:
    """Return the record of a run, and the attributes that it shares, still encoded."""
    (
        name, trace_id, state, span_id, parent_id, is_remote, flags, parent_flags,
        kind, start, shared, own, scope,
    ) = fields  # fmt: skip
    context = (trace_id, span_id, False, flags, state)
    parent = None
    if parent_id:
        parent = (trace_id, parent_id, is_remote, parent_flags, state)
    attributes = {**own, **changes} if changes else own
    record = SpanRecord(
        name, context, parent, kind, start, ended, 0, None, attributes, 0,
        [], 0, [], 0, scope,
    )  # fmt: skip
    return record, shared


def _has_fast_encoding(record: SpanRecord) -> bool:
    """Return whether ``delivery/span_encoder.py`` encodes it without the SDK."""
    (
        name, context, _, _, start, end, status, description, _, dropped_attributes,
        events, dropped_events, links, dropped_links, _,
    ) = record  # fmt: skip
    return (
        type(name) is str
        and name != ""
        and type(start) is type(end) is int
        and start > 0 < end
        and context is not None
        and not (status or description or context[4] or events or links)
        and not (dropped_attributes or dropped_events or dropped_links)
    )


def _span(resource: Resource, record: SpanRecord, shared: bytes) -> ReadableSpan:
    attributes = record.attributes
    if shared:
        attributes = {**load(shared), **attributes}
    scope = record.scope
    return EndedSpan(
        name=record.name,
        context=_context(record.context),
        parent=_context(record.parent),
        resource=resource,
        attributes=bounded(attributes, record.dropped_attributes),
        events=_list(
            [Event(n, bounded(a, d), t) for n, t, a, d in record.events],
            record.dropped_events,
        ),
        links=_list(
            [Link(_context(c), bounded(a, d)) for c, a, d in record.links],  # type: ignore[arg-type]
            record.dropped_links,
        ),
        kind=SpanKind(record.kind),
        status=Status(StatusCode(record.status), record.description),
        start_time=record.start,
        end_time=record.end,
        instrumentation_scope=None if scope is None else _scope(scope),
    )


@lru_cache(maxsize=256)
def _scope(data: bytes) -> InstrumentationScope:
    name, version, schema_url, attributes = load(data)
    return InstrumentationScope(name, version, schema_url, attributes)


def map_span(
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
