# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of spans: a span as bytes, written in the worker's processes.

A frame begins with its kind, one byte:

SPAN        a whole span: ``SpanRecord``
RUN_START   a run as it began: ``RunStart``, which has what most runs need
RUN_END     a run, or a publish, that ends as it began: its start, when it ended, attributes added
COUNTED     a run without a span, which is counted all the same: ``CountedRun``; only in
            the records of runs in flight

The start of a run is encoded anyway, for the case that its process is killed
(``in_flight.py``). Read by ``span_decoder.py``.
"""

from __future__ import annotations

import struct
from marshal import dumps
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import DEFAULT_TRACE_STATE

from otel_celery_launcher.compat.span_fields import contents, dictionary
from otel_celery_launcher.ipc.marshalled import dump, load, to_builtins

if TYPE_CHECKING:
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext

    from otel_celery_launcher.compat.lazy_span import SpanStart

SPAN, RUN_START, RUN_END, COUNTED = b"s", b"r", b"e", b"c"

# Begins a frame of a run without a span: kind, start in nanoseconds since the epoch.
COUNTED_START = struct.Struct("=cQ")

# A longer one is cut. A datagram must fit the socket's send buffer (212,992 bytes on a
# stock Linux kernel, net.core.wmem_default).
SPAN_BYTES = 128 * 1024

# Limit of the frame with the start of an in-flight run: ``in_flight.py``.
START_BYTES = 1900

# A longer text is left out of a note that is too large.
START_CHARACTERS = 64

# Trace id, span id, whether it is remote, flags, items of the state.
Context = tuple[int, int, bool, int, tuple[tuple[str, str], ...]]


class SpanRecord(NamedTuple):
    """A span; ``marshal`` takes none of its subclasses, so it is written as a bare tuple."""

    name: str
    context: Context | None
    parent: Context | None
    kind: int
    start: int | None
    end: int | None
    status: int
    description: str | None
    attributes: dict[str, Any]
    dropped_attributes: int
    events: list[tuple[str, int, dict[str, Any], int]]
    dropped_events: int
    links: list[tuple[Context, dict[str, Any], int]]
    dropped_links: int
    scope: bytes | None


class RunStart(NamedTuple):
    """A run that has begun, below the publish that its message names; or a publish."""

    name: str
    trace_id: int
    state: tuple[tuple[str, str], ...]
    span_id: int
    parent_id: int  # 0 for none
    is_remote: bool  # of the parent
    flags: int
    parent_flags: int
    kind: int
    start: int
    shared: bytes  # attributes that other runs have, too: ``encode_shared``
    own: dict[str, Any]  # attributes after these
    scope: bytes


class Unobserved(NamedTuple):
    """A run or a publish that has ended as it began: nobody has looked at its span.

    Attributes:
        origin: What it is made of.
        start: Of ``encode_run_start``; b"" if it was not encoded.
        ended: Nanoseconds since the epoch.
        changes: Attributes that it ends with.
    """

    origin: SpanStart
    start: bytes
    ended: int
    changes: dict[str, str]


class CountedRun(NamedTuple):
    """What is counted of a run, whether it has a span or not."""

    task: str
    system: str
    destination: str
    start: int  # nanoseconds since the epoch


class Cut(NamedTuple):
    """Limits to which a span that is too large is cut."""

    attributes: int
    characters: int  # of each text
    items: int  # of each list
    links: int


# Tried in this order; each holds anything that an application may put into a span.
CUTS = (Cut(64, 1024, 16, 16), Cut(16, 256, 4, 4), Cut(8, 64, 1, 0))

# Scopes as bytes, by identity; most tracers have one each.
SCOPES_KEPT = 1000
_scopes: dict[int, tuple[InstrumentationScope, bytes]] = {}


def encode_span(span: ReadableSpan) -> bytes:
    """Return a span as a frame, everything of it; too large a one is cut.

    Runs in the thread that ends the span. Nothing is caught here but what ``marshal``
    raises: soft time limits come through.
    """
    data = SPAN + dump(record_of(span))
    if len(data) > SPAN_BYTES:
        record = SpanRecord._make(to_builtins(record_of(span)))
        for cut in CUTS:
            data = SPAN + dump(tuple(_shortened(record, cut)))
            if len(data) <= SPAN_BYTES:
                break
    return data


def encode_span_start(span: ReadableSpan) -> bytes:
    """Return a started span as a frame of at most ``START_BYTES``.

    A span that is too large loses its links, its state and its long attributes.
    """
    record = record_of(span)
    data = SPAN + dump(record)
    if len(data) > START_BYTES:
        return SPAN + dump(tuple(_brief(SpanRecord._make(to_builtins(record)))))
    return data


_NO_PARENT = (0, 0, False, 0, None, False)


def encode_shared(attributes: dict[str, Any]) -> bytes:
    """Return attributes that many spans share: encoded once, copied often."""
    return dump(attributes)


def encode_run_start(origin: SpanStart) -> bytes:
    """Return a run that has just begun, or a publish, as a frame; of any length."""
    template, name, context, parent, start, _, shared, own = origin
    trace_id, span_id, _, flags, state, _ = context  # a tuple by declaration
    _, parent_id, is_remote, parent_flags, _, _ = parent or _NO_PARENT
    items = () if state is DEFAULT_TRACE_STATE else tuple(state.items())
    return RUN_START + dump(
        (
            name, trace_id, items, span_id, parent_id, is_remote, int(flags),
            int(parent_flags), template.kind, start, shared, own,
            encode_scope(template.scope),
        )
    )  # fmt: skip


def encode_run_end(start: bytes, ended: int, changes: dict[str, str]) -> bytes:
    """Return an ended run, unchanged since its start, as a frame.

    Args:
        start: Of ``encode_run_start``.
        ended: Nanoseconds since the epoch.
        changes: Attributes that it ends with, too.
    """
    return RUN_END + dumps((start, ended, changes))


def encode_unobserved(span: Unobserved) -> bytes:
    """Return a span that has ended as it began as a frame; of any length."""
    start = span.start or encode_run_start(span.origin)
    return encode_run_end(start, span.ended, span.changes)


def encode_counted_run(task: str, system: str, destination: str) -> bytes:
    """Return what follows COUNTED_START in the frame of a run without a span."""
    characters = START_CHARACTERS * 4
    texts = (task, system, destination)
    return dump(tuple(each[:characters] for each in texts))


def record_of(span: ReadableSpan) -> tuple[Any, ...]:
    """Return the fields of a ``SpanRecord``, of a span that has ended or not."""
    (
        name, context, parent, kind, start, end, status, description, attributes,
        dropped_attributes, events, dropped_events, links, dropped_links, scope,
    ) = contents(span)  # fmt: skip
    return (
        name,
        _context(context),
        _context(parent),
        *(kind, start, end, status, description, attributes, dropped_attributes),
        [
            (each.name, each.timestamp, dictionary(each.attributes), _dropped(each))
            for each in events
        ]
        if events
        else [],
        dropped_events,
        [
            (_context(each.context), dictionary(each.attributes), _dropped(each))
            for each in links
        ]
        if links
        else [],
        dropped_links,
        None if scope is None else encode_scope(scope),
    )


def encode_scope(scope: InstrumentationScope) -> bytes:
    """Return a scope as bytes."""
    known = _scopes.get(id(scope))
    if known is None or known[0] is not scope:
        if len(_scopes) >= SCOPES_KEPT:
            _scopes.clear()
        attributes = dictionary(scope.attributes)
        data = dump((scope.name, scope.version, scope.schema_url, attributes))
        known = _scopes[id(scope)] = (scope, data)
    return known[1]


def _context(context: SpanContext | None) -> tuple[Any, ...] | None:
    if context is None:
        return None
    trace_id, span_id, is_remote, flags, state, _ = context  # a tuple by declaration
    items = () if state is DEFAULT_TRACE_STATE else tuple(state.items())
    return trace_id, span_id, is_remote, int(flags), items


def _dropped(thing: Any) -> int:
    return thing.dropped_attributes or 0


def _shortened(record: SpanRecord, cut: Cut) -> SpanRecord:
    """Shorten a span that is too large: its events go, long values are cut; marked."""
    attributes = record.attributes or {}
    shortened = record._replace(
        name=_cut_value(record.name, cut),
        description=_cut_value(record.description, cut),
        attributes={**_cut_value(attributes, cut), "otel_celery.cut": True},
        dropped_attributes=record.dropped_attributes
        + max(0, len(attributes) - cut.attributes),
        events=[],
        dropped_events=record.dropped_events + len(record.events),
        links=[
            (_without_state(context), _cut_value(attributes, cut), dropped)
            for context, attributes, dropped in record.links[: cut.links]
        ],
        dropped_links=record.dropped_links + max(0, len(record.links) - cut.links),
    )
    if cut is not CUTS[-1]:
        return shortened
    return shortened._replace(
        context=_without_state(record.context),
        parent=_without_state(record.parent),
        scope=_cut_scope(record.scope),
    )


def _without_state(context: Any) -> Any:
    return None if context is None else (*context[:4], ())


def _cut_scope(scope: bytes | None) -> bytes | None:
    """Return a scope by its name, version and schema alone."""
    if scope is None:
        return None
    texts = load(scope)[:3]
    return dump((*(text and text[:START_CHARACTERS] for text in texts), None))


def _brief(record: SpanRecord) -> SpanRecord:
    """Shorten a span to its identity, its name and its short attributes."""
    short = {
        key: value
        for key, value in (record.attributes or {}).items()
        if len(key) + len(str(value)) <= START_CHARACTERS
    }
    return record._replace(
        name=record.name[:START_CHARACTERS],
        context=_without_state(record.context),
        parent=_without_state(record.parent),
        attributes=dict(list(short.items())[:16]),
        dropped_attributes=0,
        events=[],
        dropped_events=0,
        links=[],
        dropped_links=0,
        scope=_cut_scope(record.scope),
    )


def _cut_value(value: Any, cut: Cut) -> Any:
    if isinstance(value, (str, bytes)):
        return value[: cut.characters]
    if isinstance(value, (list, tuple)):
        # Nested lists occur only if an application bypasses the SDK.
        return [
            _cut_value(each, cut)
            for each in value[: cut.items]
            if not isinstance(each, (list, tuple, dict))
        ]
    if isinstance(value, dict):
        return {
            _cut_value(key, cut): _cut_value(each, cut)
            for key, each in list(value.items())[: cut.attributes]
            if not isinstance(each, dict)
        }
    return value
