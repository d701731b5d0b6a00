# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What leaves of a log record, and what does not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.app import trace as celery_trace
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_celery_launcher.ipc.log_frames import LogItem
from otel_celery_launcher.logs.reader import (
    LogOptions,
    LogReader,
    clean,
    severity_of,
)
from otel_celery_launcher.settings.task_globs import TaskGlobs

SECRET = "hunter2"


class Raises:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def record(
    msg: Any,
    *args: Any,
    level: int = logging.INFO,
    name: str = "shop.orders",
    exc: BaseException | None = None,
    **extra: Any,
) -> logging.LogRecord:
    info = None if exc is None else (type(exc), exc, exc.__traceback__)
    return logging.getLogger(name).makeRecord(
        name, level, "/app/shop.py", 7, msg, args, info, "sell", extra
    )


def read(found: logging.LogRecord, **options: Any) -> LogItem:
    item = LogReader(LogOptions(**options)).read(found)
    assert item is not None
    return item


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc  # noqa: TRY301 - for its traceback
    except BaseException as found:  # noqa: BLE001
        return found


def test_message_logger_level_time_and_extra() -> None:
    found = record("%d of %s", 3, "books", sku="a", order={"id": 5})
    item = read(found)
    assert item.body == "3 of books"
    assert (item.logger, item.severity, item.severity_text) == (
        "shop.orders",
        9,
        "INFO",
    )
    assert abs(item.time - found.created * 1e9) < 1000
    assert item.attributes == {"sku": "a", "order": "{'id': 5}"}
    assert (item.trace_id, item.span_id) == (0, 0)


def test_it_is_in_the_current_span() -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("run"):
        context = trace.get_current_span().get_span_context()
        item = read(record("x"))
    assert (item.trace_id, item.span_id) == (context.trace_id, context.span_id)
    assert item.trace_flags == int(context.trace_flags)


@pytest.mark.parametrize(
    ("level", "number", "text"),
    [
        (logging.DEBUG, 5, "DEBUG"),
        (logging.INFO, 9, "INFO"),
        (logging.WARNING, 13, "WARN"),
        (logging.ERROR, 17, "ERROR"),
        (logging.CRITICAL, 21, "FATAL"),
        (25, 12, "Level 25"),
        (5, 1, "Level 5"),
        (99, 24, "Level 99"),
    ],
)
def test_severities_are_those_of_the_data_model(
    level: int, number: int, text: str
) -> None:
    item = read(record("x", level=level))
    assert (item.severity, item.severity_text) == (number, text)
    assert severity_of(0) == 0


def test_records_below_the_level_do_not_leave() -> None:
    reader = LogReader(LogOptions(level=logging.WARNING))
    assert reader.read(record("x")) is None
    assert reader.read(record("x", level=logging.WARNING)) is not None


def test_code_attributes_on_request() -> None:
    assert read(record("x"), has_code=True).attributes == {
        "code.file.path": "/app/shop.py",
        "code.function.name": "sell",
        "code.line.number": 7,
    }


def test_an_exception_has_type_message_and_stacktrace() -> None:
    exc = raised(ValueError("too few"))
    attributes = read(record("failed", exc=exc)).attributes
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "too few"
    assert "in raised" in attributes["exception.stacktrace"]


def test_the_ids_that_we_put_there_are_no_attributes() -> None:
    ids = {"otelTraceID": "0", "otelSpanID": "0", "otelServiceName": "s"}
    assert read(record("x", **ids, otelTraceSampled=True)).attributes == {}


def test_a_mapping_is_an_event_as_structlog_has_it() -> None:
    item = read(record({"event": "sold", "sku": "a", "left": 3}))
    assert item.body == "sold"
    assert item.attributes == {"sku": "a", "left": 3}


# Hostile.


@pytest.mark.parametrize(
    "found",
    [
        record("%s", Raises()),
        record("%d", "no number"),
        record("%s %s", "one"),
        record(Raises()),
        record("x", thing=Raises()),
        record({"event": Raises(), 5: Raises()}),
        record("x", exc=raised(type("E", (Exception,), {"__str__": Raises.__str__})())),
        record("\ud800 lone", other="\udfff"),
        record("x" * 10_000_000, other="y" * 10_000_000),
        record("x", huge=2**70, deep=[[1], {2}], none=None, many=list(range(10_000))),
    ],
)
def test_what_cannot_be_formatted_leaves_as_far_as_it_can(
    found: logging.LogRecord,
) -> None:
    item = read(found)
    assert len(item.body) <= 64 * 1024
    item.body.encode()
    for value in item.attributes.values():
        assert type(value) in (str, int, float, bool, bytes, list)
        assert len(str(value)) <= 70_000


def test_a_record_with_an_odd_exc_info() -> None:
    found = record("x")
    for info in (True, (), (None, None, None), "text"):
        found.exc_info = info  # type: ignore[assignment]
        assert "exception.type" not in read(found).attributes


def test_a_soft_time_limit_goes_on() -> None:
    class Limited:
        def __str__(self) -> str:
            raise SoftTimeLimitExceeded

    for found in (record("%s", Limited()), record(Limited())):
        with pytest.raises(SoftTimeLimitExceeded):
            read(found)


@pytest.mark.parametrize("value", ["x", True, 1.5, b"x", 7])
def test_plain_values_stay(value: object) -> None:
    assert clean(value) == value
    assert type(clean(value)) is type(value)


# Privacy.


def of_task(msg: str, **context: Any) -> logging.LogRecord:
    context = {"id": "abc", "name": "shop.sell", **context}
    return record(msg, context, name="celery.app.trace", data=context)


ARGUMENTS = {"args": f"('{SECRET}',)", "kwargs": f"{{'a': '{SECRET}'}}"}
SUCCEEDED = of_task(
    celery_trace.LOG_SUCCESS, return_value=f"'{SECRET}'", runtime=0.5, **ARGUMENTS
)
FAILED = of_task(
    celery_trace.LOG_FAILURE,
    exc=f"ValueError('{SECRET}')",
    traceback=f"Traceback … {SECRET}",
    description="raised unexpected",
    **ARGUMENTS,
)


def test_celerys_lines_have_no_arguments_and_no_results() -> None:
    item = read(SUCCEEDED)
    assert item.body == "Task shop.sell[abc] succeeded in 0.5s"
    assert item.attributes == {
        "celery.task_name": "shop.sell",
        "messaging.message.id": "abc",
    }
    received = read(of_task(celery_trace.LOG_RECEIVED, **ARGUMENTS))
    assert received.body == "Task shop.sell[abc] received"
    custom = of_task("%(name)s %(args)s %(kwargs)s: %(id)s", **ARGUMENTS)
    assert read(custom).body == "shop.sell  : abc"


def test_they_have_them_where_that_is_allowed() -> None:
    allowed = TaskGlobs([("shop.*", 100)])
    item = read(SUCCEEDED, arguments=allowed)
    assert item.body == f"Task shop.sell[abc] succeeded in 0.5s: '{SECRET}'"
    assert "data" not in item.attributes


def test_messages_of_exceptions_leave_unless_they_are_to_stay() -> None:
    assert SECRET in read(FAILED).body
    item = read(FAILED, shows_exceptions=False)
    assert item.body == "Task shop.sell[abc] raised unexpected: ValueError"
    assert SECRET not in str(item)


@pytest.mark.parametrize(
    "found",
    [
        record(f"failed: {SECRET}", exc=raised(ValueError(SECRET))),
        record("failed: %s", ValueError(SECRET)),
        record("failed: %(why)s", {"why": ValueError(SECRET)}),
        record("failed: %r", ValueError(SECRET)),
    ],
)
def test_an_exceptions_message_stays_where_it_is_to_stay(
    found: logging.LogRecord,
) -> None:
    item = read(found, shows_exceptions=False)
    assert SECRET not in str(item)
    assert item.body.startswith("failed: ")
    assert "exception.message" not in item.attributes


def test_the_exception_that_is_being_handled_counts_too() -> None:
    try:
        raise ValueError(SECRET)  # noqa: TRY301
    except ValueError as exc:
        item = read(record(f"failed: {exc}"), shows_exceptions=False)
    assert item.body == "failed: ..."


@pytest.mark.parametrize(
    "extra",
    [
        {"error": ValueError(SECRET)},
        {"text": f"it failed: {SECRET}"},
        {"exception": f"Traceback (most recent call last):\n  x\nValueError: {SECRET}"},
    ],
)
@pytest.mark.parametrize("is_event", [True, False])
def test_nor_does_it_leave_among_the_attributes(
    extra: dict[str, Any], is_event: bool
) -> None:
    try:
        raise ValueError(SECRET)  # noqa: TRY301
    except ValueError:
        found = record({"event": "e", **extra}) if is_event else record("e", **extra)
        item = read(found, shows_exceptions=False)
    assert item.body == "e"
    assert set(item.attributes) == set(extra)
    assert SECRET not in str(item)


def test_an_object_is_not_asked_for_its_text_unless_it_is_plain_data() -> None:
    class Query:
        def __repr__(self) -> str:
            raise AssertionError("the database was asked")

    item = read(record("x", rows=Query(), many=[Query()], plain={"a": (1, None)}))
    assert item.attributes["rows"].endswith("Query>")
    assert item.attributes["many"] == [item.attributes["rows"]]
    assert item.attributes["plain"] == "{'a': (1, None)}"


def test_a_record_of_another_process_leaves_there() -> None:
    found = record("x")
    found.process = 1
    assert LogReader(LogOptions()).read(found) is None


def test_what_a_record_raises_is_said_by_one_that_leaves() -> None:
    class Odd(dict[str, str]):
        def get(self, *_: object) -> Any:
            raise OSError

    item = read(record(Odd(event="e")))
    assert item.body == "a log record that cannot be read: OSError"
    assert item.time > 1_600_000_000_000_000_000
    nameless = record("x")
    nameless.name = None  # type: ignore[assignment]
    assert (read(nameless).logger, read(nameless).body) == ("None", "x")
    hidden = record(Raises(), 1)
    assert "Raises" in read(hidden, shows_exceptions=False).body or read(hidden)


def test_an_applications_own_data_is_its_own() -> None:
    assert read(record("x", data="mine")).attributes == {"data": "mine"}


def test_odd_levels_and_names_spoil_no_other_record() -> None:
    odd = record("x")
    odd.levelno = 20.0  # type: ignore[assignment]
    assert read(odd).severity == 9
    assert type(read(record("x")).severity) is int
    odd.levelno, odd.name, odd.levelname = 20, [], {}  # type: ignore[assignment]
    assert (read(odd).logger, read(odd).severity_text) == ("[]", "{}")


def test_an_exception_that_is_false_is_one() -> None:
    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    exc = raised(EmptyError("secret thing"))
    found = record("failed: secret thing")
    found.exc_info = (type(exc), exc, exc.__traceback__)
    assert read(found).attributes["exception.message"] == "secret thing"
    hidden = read(found, shows_exceptions=False)
    assert "secret" not in str(hidden)
    assert hidden.attributes["exception.type"].endswith("EmptyError")
