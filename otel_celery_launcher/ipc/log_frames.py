# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of log records: a record as bytes. Written where it is made, read where it is exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.marshalled import READ_ERRORS, dump, load, without_longest

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

# A longer one is cut. A datagram must fit the socket's send buffer (212,992 bytes on a
# stock Linux kernel, net.core.wmem_default).
LOG_BYTES = 128 * 1024

# What its attributes, its body and the rest may take then; a character has up to 4 bytes.
_ATTRIBUTE_BYTES = 56 * 1024
_BODY_CHARACTERS = 16 * 1024
_NAME_CHARACTERS = 1024


# The last number of the data model.
MOST_SEVERE = 24


class LogItem(NamedTuple):
    """A log record.

    Attributes:
        logger: Name of its logger: the instrumentation scope.
        time: When it was made; nanoseconds since the epoch.
        severity: ``SeverityNumber`` of the data model, 1 to 24; 0 for none.
        severity_text: The level's name, as the data model spells it.
        body: The message; of an event also a number, or a mapping or list of such values.
        trace_id: Of the span in which it was made; 0 outside of one.
        span_id: Likewise.
        trace_flags: Likewise.
        attributes: Values of the types bool, int, float, str, bytes, and lists of them.
        event: Name of an event; empty of any other record.
    """

    logger: str
    time: int
    severity: int
    severity_text: str
    body: Any
    trace_id: int
    span_id: int
    trace_flags: int
    attributes: dict[str, Any]
    event: str = ""


def encode_log(item: LogItem) -> bytes:
    """Return a record as bytes."""
    data = dump(tuple(item))
    if len(data) <= LOG_BYTES:
        return data
    shortened = item._replace(
        logger=item.logger[:_NAME_CHARACTERS],
        severity_text=item.severity_text[:_NAME_CHARACTERS],
        event=item.event[:_NAME_CHARACTERS],
        body=str(item.body)[:_BODY_CHARACTERS],
        attributes=without_longest(item.attributes, _ATTRIBUTE_BYTES),
    )
    return dump(tuple(shortened))


def read_log_item(data: bytes) -> LogItem:
    """Return the record in a frame.

    Raises:
        FrameError: Not written by this version.
    """
    try:
        fields = load(data)
        _, _, severity, _, _, _, _, _, attributes, _ = fields
    except READ_ERRORS as exc:
        raise FrameError(f"not a log record: {exc!r}") from exc
    is_known = type(severity) is int and 0 <= severity <= MOST_SEVERE
    if type(attributes) is not dict or not is_known:
        raise FrameError("not a log record")
    # As LogItem(…) at a third of its cost: it is called for each record.
    return tuple.__new__(LogItem, fields)


class FramedLog:
    """A record that was handed over: what exporters of logs take, made when one asks.

    Attributes:
        item: The record.
        resource: Of the process that made it.
    """

    __slots__ = ("_record", "item", "resource")

    def __init__(self, item: LogItem, resource: Resource) -> None:
        self.item = item
        self.resource = resource

    def __reduce__(self) -> tuple[type, tuple[LogItem, Resource]]:
        """Return how it is copied."""
        return FramedLog, (self.item, self.resource)

    def __getattr__(self, name: str) -> Any:
        """Return what the SDK's record has of this name."""
        if name in ("item", "resource") or name.startswith("__"):  # of a copy to be
            raise AttributeError(name)
        if name == "_record":
            from otel_celery_launcher.compat.log_records import new_record

            self._record = new_record(self.item, self.resource)
            return self._record
        return getattr(self._record, name)


def read_log(resource: Resource, data: bytes) -> FramedLog:
    """Return the record in a frame as an exporter takes it (where logs are exported).

    Args:
        resource: Of the process that made it.
        data: The frame.

    Raises:
        FrameError: Not written by this version.
    """
    return FramedLog(read_log_item(data), resource)
