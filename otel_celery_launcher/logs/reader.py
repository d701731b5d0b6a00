# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a log record: what leaves of it, in the form in which it leaves.

Runs in every process, in the thread that logs. Third-party objects are asked for their
text, and may raise anything; a soft time limit that is raised meanwhile goes on.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from datetime import time as dtime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from billiard.exceptions import SoftTimeLimitExceeded

from otel_celery_launcher.compat import celery_logs, contexts
from otel_celery_launcher.delivery.redaction import frames_of
from otel_celery_launcher.ipc.log_frames import LogItem
from otel_celery_launcher.settings.task_globs import TaskGlobs
from otel_celery_launcher.tasks.errors import error_type_of, stacktrace_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# What every record has; the rest is the application's ``extra``. ``otel…`` is ours
# (``telemetry/log_correlation.py``).
_NOT_EXTRA = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime"),
    *("otelServiceName", "otelTraceID", "otelSpanID", "otelTraceSampled"),
}

_RECORD_FIELDS = len(logging.makeLogRecord({}).__dict__)

# Characters of a body or a value; a longer one is cut.
TEXT_CHARACTERS = 64 * 1024

_TRACEBACK = "Traceback (most recent call last):"

# Elements of a list among the attributes; further ones are left out.
LIST_ELEMENTS = 128

# A shorter text of an exception may stand in a message by chance.
EXCEPTION_CHARACTERS = 4
HIDDEN = "..."

# Objects whose text is their value; containers of them count to this depth.
_PLAIN = (
    str, int, float, complex, bytes, type(None), Enum, UUID, Decimal, date,
    dtime, timedelta, PurePath, BaseException,
)  # fmt: skip
NESTED = 3

_EMPTY = LogItem(__name__, 0, 0, "", "", 0, 0, 0, {})

_LARGEST = 2**63

# The numbers of the data model, for each level of ``logging``:
# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_TRACE, _FATAL4 = 1, 24
_NAMES = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class LogOptions(NamedTuple):
    """What leaves of a log record.

    Attributes:
        level: Records below it do not leave.
        has_code: Whether file, line and function leave, too.
        shows_exceptions: Whether messages of exceptions do.
        arguments: For which tasks Celery's lines may have arguments and results.
    """

    level: int = logging.NOTSET
    has_code: bool = False
    shows_exceptions: bool = True
    arguments: TaskGlobs[int] = TaskGlobs()


class LogReader:
    """Reads log records.

    Args:
        options: What leaves of them.
    """

    def __init__(self, options: LogOptions) -> None:
        self._options = options

    def read(self, record: logging.LogRecord) -> LogItem | None:
        """Return what leaves of a record; None if it does not leave.

        One that another process made does not: it leaves there.

        Raises:
            SoftTimeLimitExceeded: The task's time limit was reached meanwhile.
        """
        if record.process != os.getpid() and record.process is not None:
            return None
        try:
            return self._read(record)
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - code of the application raises anything
            kind = type(exc).__name__
            now = int(logging.makeLogRecord({}).created * 1e9)
            text = f"a log record that cannot be read: {kind}"
            return _EMPTY._replace(time=now, body=text)

    def _read(self, record: logging.LogRecord) -> LogItem | None:
        options = self._options
        if record.levelno < options.level:
            return None
        exc = None if record.exc_info is None else _exception_of(record)
        context = None
        if type(record.args) is dict:
            context = celery_logs.context_of(record)
        attributes = {}
        extra: set[str] = set()
        if len(record.__dict__) != _RECORD_FIELDS:  # a tenth of the set's cost
            extra = record.__dict__.keys() - _NOT_EXTRA
        if extra or options.has_code or exc is not None or context is not None:
            attributes = self._attributes(record, extra, context, exc)
        body = self._body(record, context, attributes)
        if not options.shows_exceptions:
            handled = sys.exc_info()[1] if exc is None else exc
            body = hide_exceptions(body, attributes, handled)
        span = contexts.current_span().get_span_context()
        number, text = _level(record.levelno, _as_text(record.levelname))
        fields = (
            _clean_name(_as_text(record.name)),
            int(record.created * 1e9),
            number,
            text,
            _clean_text(body),
            span.trace_id,
            span.span_id,
            int(span.trace_flags),
            attributes,
            "",
        )
        # As LogItem(…) at a third of its cost: it is called for each record.
        return tuple.__new__(LogItem, fields)

    # The message.

    def _body(
        self,
        record: logging.LogRecord,
        context: Mapping[str, Any] | None,
        attributes: dict[str, Any],
    ) -> str:
        if context is not None:
            return self._body_of_task(record, context)
        if not record.args:
            if type(record.msg) is not str and isinstance(record.msg, Mapping):
                return self._body_of_event(record.msg, attributes)  # structlog
            return _message(record.getMessage, record.msg)
        if record.name.startswith("celery."):
            short = celery_logs.shortened(record)
            if short is not None and isinstance(record.args, tuple):
                return _formatted(short[0], self._shown(record.args[: short[1]]))
        if self._options.shows_exceptions:
            return _message(record.getMessage, record.msg)
        return _formatted(str(record.msg), self._shown(record.args))

    def _body_of_event(
        self, event: Mapping[Any, Any], attributes: dict[str, Any]
    ) -> str:
        """Return the message of a record whose ``msg`` is a mapping; the rest are attributes."""
        for key, value in list(event.items()):
            if key != "event" and value is not None:
                attributes[_clean_text(text_of(key))] = self._value(value)
        return text_of(event.get("event", ""))

    def _body_of_task(
        self, record: logging.LogRecord, context: Mapping[str, Any]
    ) -> str:
        """Return Celery's line about a task, without what must not leave."""
        hidden: dict[str, str] = {}
        if not self._options.arguments.get(text_of(context["name"])):
            hidden = dict.fromkeys(celery_logs.RESULTS_AND_ARGUMENTS & set(context), "")
        if not self._options.shows_exceptions:
            for key in celery_logs.EXCEPTIONS & set(context):
                hidden[key] = text_of(context[key]).partition("(")[0]
                if not hidden[key].isidentifier():
                    hidden[key] = HIDDEN
        body = _formatted(str(record.msg), {**context, **hidden})
        return body.removesuffix(": ") if hidden else body

    def _shown(self, arguments: Any) -> Any:
        """Return a record's arguments, exceptions among them by their type if need be."""
        if self._options.shows_exceptions:
            return arguments
        if isinstance(arguments, Mapping):
            return {key: _by_type(value) for key, value in arguments.items()}
        return tuple(map(_by_type, arguments))

    def _value(self, value: Any) -> Any:
        """Return a value as an attribute."""
        return clean(value if self._options.shows_exceptions else _by_type(value))

    # The rest.

    def _attributes(
        self,
        record: logging.LogRecord,
        extra: set[str],
        context: Mapping[str, Any] | None,
        exc: BaseException | None,
    ) -> dict[str, Any]:
        attributes = {
            _clean_text(str(key)): self._value(value)
            for key, value in list(record.__dict__.items())
            if key in extra
            and value is not None
            and not (context is not None and key == "data")
        }
        if context is not None:
            attributes["celery.task_name"] = _clean_text(text_of(context["name"]))
            attributes["messaging.message.id"] = _clean_text(text_of(context["id"]))
        if self._options.has_code:
            attributes["code.file.path"] = record.pathname
            attributes["code.function.name"] = record.funcName
            attributes["code.line.number"] = record.lineno
        if exc is not None:
            shows = self._options.shows_exceptions
            attributes |= exception_attributes(exc, shows_message=shows)
        return attributes


def exception_attributes(exc: BaseException, *, shows_message: bool) -> dict[str, Any]:
    """Return what leaves of an exception: its type, message and stack trace."""
    kind, stacktrace = _clean_text(error_type_of(exc)), _clean_text(stacktrace_of(exc))
    if not shows_message:
        return {"exception.type": kind, "exception.stacktrace": frames_of(stacktrace)}
    return {
        "exception.type": kind,
        "exception.message": _clean_text(text_of(exc)),
        "exception.stacktrace": stacktrace,
    }


@lru_cache(maxsize=128, typed=True)
def _level(number: int, name: str) -> tuple[int, str]:
    """Return number and text of the data model."""
    return int(severity_of(number)), _clean_text(_NAMES.get(name, name))


def severity_of(level: int) -> int:
    """Return the number of the data model for a level of ``logging``.

    10, 20, 30, 40 and 50 are DEBUG, INFO, WARN, ERROR and FATAL; levels between them are
    the further numbers of the one below, of which each has four.
    """
    if level < logging.DEBUG:
        return _TRACE if level > 0 else 0
    tens, rest = divmod(level, 10)
    return min(_FATAL4, 1 + 4 * min(tens, 5) + min(rest, 3))


def clean(value: Any) -> Any:
    """Return a value that the encoders of OTLP take.

    Raises:
        SoftTimeLimitExceeded: The task's time limit was reached meanwhile.
    """
    kind = type(value)
    if kind is str:
        return _clean_text(value)
    if kind is bool or kind is float or kind is bytes:
        return value
    if kind is int:
        return value if -_LARGEST <= value < _LARGEST else str(value)
    if kind in (list, tuple):
        return [
            clean(each) if type(each) in (str, bool, int, float) else _shown_text(each)
            for each in value[:LIST_ELEMENTS]
        ]
    return _shown_text(value)


def clean_body(value: Any, depth: int = NESTED) -> Any:
    """Return the body of an event: texts, numbers, and mappings and lists of them."""
    if depth and isinstance(value, Mapping):
        items = list(value.items())[:LIST_ELEMENTS]
        return {
            _clean_text(text_of(key)): clean_body(each, depth - 1)
            for key, each in items
        }
    if depth and type(value) in (list, tuple):
        return [clean_body(each, depth - 1) for each in value[:LIST_ELEMENTS]]
    return "" if value is None else clean(value)


def _shown_text(value: object) -> str:
    """Return an object's text if it is one of plain data, else its type.

    Plain Celery never asks an ``extra`` for its text, and to ask may query a database or
    take a lock.
    """
    if not _is_plain(value, NESTED):
        return f"<{type(value).__qualname__}>"
    return _clean_text(text_of(value))


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if depth == 0 or type(value) not in (dict, list, tuple, set, frozenset):
        return False
    parts: Any = value
    if len(parts) > LIST_ELEMENTS:
        return False
    if type(value) is dict:
        parts = [each for pair in list(value.items()) for each in pair]
    return all(_is_plain(each, depth - 1) for each in list(parts))


def _as_text(value: object) -> str:
    return value if type(value) is str else text_of(value)


def _clean_text(text: str) -> str:
    """Return a text that can be encoded, and is not too long."""
    if len(text) > TEXT_CHARACTERS:
        text = text[:TEXT_CHARACTERS]
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


_clean_name = lru_cache(maxsize=1024)(_clean_text)


def _formatted(text: str, arguments: Any) -> str:
    return _message(lambda: text % arguments if arguments else text, text)


def _message(make: Callable[[], str], text: object) -> str:
    """Return what a function makes of a format; if it raises, the format and a note."""
    try:
        message = make()
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - the application's: logging reports it, too
        kind = type(exc).__name__
        return f"{text_of(text)} <its arguments cannot be formatted: {kind}>"
    return message if type(message) is str else text_of(message)


def _exception_of(record: logging.LogRecord) -> BaseException | None:
    info: (
        tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None]
        | None
    ) = record.exc_info
    exc = info[1] if isinstance(info, tuple) and len(info) > 1 else None
    return exc if isinstance(exc, BaseException) else None


def _by_type(value: object) -> object:
    return error_type_of(value) if isinstance(value, BaseException) else value


def hide_exceptions(
    body: Any, attributes: dict[str, Any], exc: BaseException | None
) -> Any:
    """Hide the text of the exception that is being handled, and what tracebacks say.

    Returns:
        The body without them; those of the attributes are changed.
    """
    text = "" if exc is None else text_of(exc)

    def hide(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hide(each) for key, each in value.items()}
        if isinstance(value, list):
            return [hide(each) for each in value]
        if type(value) is not str:
            return value
        if _TRACEBACK in value:
            return frames_of(value)
        is_long = len(text) >= EXCEPTION_CHARACTERS
        return value.replace(text, HIDDEN) if is_long else value

    for key, value in attributes.items():
        attributes[key] = hide(value)
    if type(body) is str and _TRACEBACK in body:
        return f"{hide(body.partition(_TRACEBACK)[0])}{frames_of(body)}"
    return hide(body)
