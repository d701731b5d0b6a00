# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames: a span as bytes, written in the worker's processes.

A span that ends as it began is what it was at its start, when it ended, and what was
added: its start is encoded anyway, for the case that its process is killed.

``marshal`` writes a span in about 3 µs and reads only what the same interpreter wrote:
both ends are the same ``sys.executable``. It is not safe against made-up input, so the
checksum of a message is looked at before it (``datagrams.py``).
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import DEFAULT_TRACE_STATE

from otel_celery_launcher.compat.span_fields import contents, dictionary

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext

    from otel_celery_launcher.compat.lazy_span import Begun

# A longer one is cut. A datagram must fit the socket's send buffer (212,992 bytes on a
# stock Linux kernel, net.core.wmem_default).
SPAN_BYTES = 128 * 1024

# The span of a run that has begun, as it is noted: ipc/in_flight.py.
START_BYTES = 1900

# A longer text is left out of a note that is too large.
START_CHARACTERS = 64


class Cut(NamedTuple):
    """What is left of a span that is too large."""

    attributes: int
    characters: int  # of each text
    items: int  # of each list
    links: int


# Tried in this order; each holds whatever an application may put into a span.
CUTS = (Cut(64, 1024, 16, 16), Cut(16, 256, 4, 4), Cut(8, 64, 1, 0))

# Of a span's record. One that is as it began is told by other fields, ``encode_begun``;
# one that ended so by these and two more, ``encode_end``.
END, ATTRIBUTES = 5, 8
BEGUN_FIELDS, ENDED_FIELDS = 13, 3

# Scopes as bytes, by identity; one for each tracer, as a rule.
SCOPES_KEPT = 1000
_scopes: dict[int, tuple[InstrumentationScope, bytes]] = {}


def encode_resource(resource: Resource) -> bytes:
    """Return a resource as bytes; called once for each resource of a process."""
    return _dump((dict(resource.attributes), resource.schema_url))


def encode_span(span: ReadableSpan) -> bytes:
    """Return a span as bytes, everything of it; too large a one is cut.

    Runs in the thread that ends the span. Nothing is caught here but what ``marshal``
    raises: soft time limits come through.
    """
    data = _dump(_record(span))
    if len(data) > SPAN_BYTES:
        record = _plain(_record(span))
        for cut in CUTS:
            data = _dump(_shortened(record, cut))
            if len(data) <= SPAN_BYTES:
                break
    return data


def encode_start(span: ReadableSpan) -> bytes:
    """Return a span that has begun as ``START_BYTES`` at most.

    What is too large goes without its links, its state and its long attributes.
    """
    record = _record(span)
    data = _dump(record)
    if len(data) > START_BYTES:
        return _dump(_brief(record))
    return data


def encode_common(attributes: dict[str, Any]) -> bytes:
    """Return attributes that many spans have in common: encoded once, copied often."""
    return _dump(attributes)


def encode_begun(begun: Begun, common: bytes) -> bytes:
    """Return a span that has just begun; of any length.

    Args:
        begun: The span.
        common: Its attributes in common with others, of ``encode_common``.
    """
    pattern, name, context, parent, start, _, own = begun
    trace_id, parent_id, is_remote, parent_flags, state, _ = parent  # by declaration
    items = () if state is DEFAULT_TRACE_STATE else tuple(state.items())
    flags = int(context.trace_flags), int(parent_flags)
    return _dump(
        (
            *(name, trace_id, items, context.span_id, parent_id, is_remote, *flags),
            *(pattern.kind, start, common, own, _scope(pattern.scope)),
        )
    )


def encode_end(start: bytes, ended: int, changes: dict[str, str]) -> bytes:
    """Return a span that ends as it began, as bytes.

    Args:
        start: The whole span at its start, of ``encode_begun``.
        ended: Nanoseconds since the epoch.
        changes: Attributes that it ends with, too.
    """
    return marshal.dumps((start, ended, changes))


def _record(span: ReadableSpan) -> tuple[Any, ...]:
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
        None if scope is None else _scope(scope),
    )


def _scope(scope: InstrumentationScope) -> bytes:
    known = _scopes.get(id(scope))
    if known is None or known[0] is not scope:
        if len(_scopes) >= SCOPES_KEPT:
            _scopes.clear()
        attributes = dictionary(scope.attributes)
        data = _dump((scope.name, scope.version, scope.schema_url, attributes))
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


def _dump(record: Any) -> bytes:
    try:
        return marshal.dumps(record)
    except ValueError:  # an enumeration, a subclass of str, a stranger's object
        return marshal.dumps(_plain(record))


def _plain(value: Any) -> Any:
    """Return a value in the types that ``marshal`` knows."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's own str() is its name
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    return repr(value)


def _shortened(record: tuple[Any, ...], cut: Cut) -> tuple[Any, ...]:
    """Shorten a span that is too large: its events go, long values are cut; marked."""
    fields = list(record)
    attributes = fields[8] or {}
    fields[8] = {**_cut_value(attributes, cut), "otel_celery.cut": True}
    fields[9] += max(0, len(attributes) - cut.attributes)
    fields[11] += len(fields[10])
    fields[13] += max(0, len(fields[12]) - cut.links)
    fields[10] = []
    fields[12] = [
        (_without_state(context), _cut_value(attributes, cut), dropped)
        for context, attributes, dropped in fields[12][: cut.links]
    ]
    fields[0], fields[7] = _cut_value(fields[0], cut), _cut_value(fields[7], cut)
    if cut is CUTS[-1]:
        fields[1:3] = map(_without_state, fields[1:3])
        fields[14] = _cut_scope(fields[14])
    return tuple(fields)


def _without_state(context: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return None if context is None else (*context[:4], ())


def _cut_scope(scope: bytes | None) -> bytes | None:
    """Return a scope by its name, version and schema alone."""
    if scope is None:
        return None
    texts = marshal.loads(scope)[:3]  # noqa: S302 - ours
    return _dump((*(text and text[:START_CHARACTERS] for text in texts), None))


def _brief(record: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shorten a span to its identity, its name and its short attributes."""
    name, context, parent, *middle, scope = _plain(record)
    attributes = {
        key: value
        for key, value in (middle[5] or {}).items()
        if len(key) + len(str(value)) <= START_CHARACTERS
    }
    middle[5:] = [dict(list(attributes.items())[:16]), 0, [], 0, [], 0]
    return (
        name[:START_CHARACTERS],
        _without_state(context),
        _without_state(parent),
        *middle,
        _cut_scope(scope),
    )


def _cut_value(value: Any, cut: Cut) -> Any:
    if isinstance(value, (str, bytes)):
        return value[: cut.characters]
    if isinstance(value, (list, tuple)):
        # Lists lie in lists only where somebody has put them past the SDK.
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
