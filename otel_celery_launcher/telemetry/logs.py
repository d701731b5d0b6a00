# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Log records on their way to the route.

Runs in every process, in the thread that logs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.ipc.log_frames import LogItem, encode_log
from otel_celery_launcher.logs.capture import take_records
from otel_celery_launcher.logs.events import read_event
from otel_celery_launcher.logs.reader import LogOptions, LogReader, severity_of
from otel_celery_launcher.routes.counting_exporter import is_exporting
from otel_celery_launcher.routes.route import Outgoing
from otel_celery_launcher.signals import LOGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.routes.route import Route
    from otel_celery_launcher.settings.settings import Settings

# What may wait in a process for room in the kernel's buffer: some 5,000 lines.
BACKLOG_BYTES = 1024 * 1024

# What exports in this process logs what it does; that would be exported, too. And a line
# of ours on lost records may be lost itself.
_OWN_LOGGERS = ("opentelemetry.", "otel_celery_launcher")

# The first two: an interpreter that ends imports nothing and starts no thread.
_LET_GO = (ImportError, RuntimeError, *MALFORMED_ERRORS)

# From this number of the data model on, a record warns.
_WARN = severity_of(logging.WARNING)

# A record, and the resource of the process that made it.
Item = tuple[LogItem, "Resource"]


def _encode(item: Item) -> bytes:
    return encode_log(item[0])


def _make_queue(exporter: Any) -> Any:
    from otel_celery_launcher.compat import log_records

    return log_records.make_queue(exporter)


def _put(queue: Any, record: Any) -> None:
    from otel_celery_launcher.compat import log_records

    log_records.put(queue, record)


def _prepare(item: Item) -> Any:
    from otel_celery_launcher.compat import log_records

    return log_records.new_record(*item)


OUTGOING = Outgoing(
    signal=LOGS,
    encode=_encode,
    make_queue=_make_queue,
    put=_put,
    prepare=_prepare,
    backlog_bytes=BACKLOG_BYTES,
    is_waited_for=False,
)


class LogFront:
    """Hands log records to the route.

    Args:
        options: What leaves of a record.
        route: Returns how telemetry leaves this process.
        resource: Returns the resource of this process.
    """

    def __init__(
        self,
        options: LogOptions,
        route: Callable[[], Route],
        resource: Callable[[], Resource],
    ) -> None:
        self._shows_exceptions = options.shows_exceptions
        self._reader = LogReader(options)
        self._route = route
        self._resource = resource

    def take(self, record: logging.LogRecord) -> None:
        """Hand a record over; raises nothing but a soft time limit."""
        name: object = record.name
        if type(name) is not str:
            name = str(name)
        if name.startswith(_OWN_LOGGERS) or is_exporting():
            return
        try:
            self._hand_over(self._reader.read(record))
        except _LET_GO:
            return

    def take_event(self, logger: str, fields: Mapping[str, Any]) -> None:
        """Hand an event over; raises nothing but a soft time limit."""
        if is_exporting():
            return
        try:
            self._hand_over(
                read_event(logger, fields, shows_exceptions=self._shows_exceptions)
            )
        except _LET_GO:
            return

    def _hand_over(self, item: LogItem | None) -> None:
        if item is None:
            return
        resource = self._resource()
        self._route().hand_over(
            LOGS,
            (item, resource),
            resource,
            ends_work=item.severity >= _WARN,  # what warns does not wait for others
            ends_task=False,
        )


def take_logs(
    settings: Settings, route: Callable[[], Route], resource: Callable[[], Resource]
) -> None:
    """Let log records leave from here on, if any are to (launcher, spawned child)."""
    if not settings.exports_logs:
        return
    options = LogOptions(
        level=settings.logs.level,
        has_code=settings.logs.has_code,
        shows_exceptions=not settings.redacts_exceptions,
        arguments=settings.tasks.arguments,
    )
    front = LogFront(options, route, resource)
    # A worker whose log records stay does not import the API of logs.
    from otel_celery_launcher.compat.logger_providers import provide_events

    take_records(front.take)
    provide_events(front.take_event)
