"""Celery's own log lines, made by Celery: what leaves of them."""

from __future__ import annotations

import logging

import pytest
from celery.concurrency import base
from celery.worker.consumer import consumer as celery_consumer

from otel_celery_launcher.compat import celery_logs
from otel_celery_launcher.logs.reader import LogOptions, LogReader

CONSUMER = "celery.worker.consumer.consumer"


def line(name: str, message: str, *arguments: object) -> str:
    record = logging.getLogger(name).makeRecord(
        name, logging.ERROR, "f", 1, message, arguments, None
    )
    item = LogReader(LogOptions()).read(record)
    assert item is not None
    return str(item.body)


@pytest.mark.parametrize(
    ("constant", "arguments", "expected"),
    [
        ("UNKNOWN_FORMAT", ("secret",), "Received and deleted unknown message."),
        (
            "UNKNOWN_TASK_ERROR",
            (KeyError("shop.gone"), "secret", "secret", "secret"),
            "Received unregistered task of type 'shop.gone'.",
        ),
        (
            "INVALID_TASK_ERROR",
            (ValueError("no id"), "secret"),
            "Received invalid task message: no id",
        ),
        (
            "MESSAGE_DECODE_ERROR",
            (ValueError("line 1"), "json", "utf-8", "secret", "secret"),
            "Can't decode message body: line 1",
        ),
    ],
)
def test_bodies_and_headers_of_messages_do_not_leave(
    constant: str, arguments: tuple[object, ...], expected: str
) -> None:
    message = getattr(celery_consumer, constant)
    assert "secret" in message % arguments
    assert line(CONSUMER, message, *arguments) == expected


def test_nor_do_the_arguments_in_the_pools_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line as Celery's pool writes it, on the level DEBUG."""

    class Pool(base.BasePool):  # type: ignore[misc]
        def on_apply(self, *_: object, **__: object) -> None:
            """Run nothing."""

    with caplog.at_level(logging.DEBUG, logger=base.logger.name):
        pool = Pool(limit=1)
        pool._does_debug = True
        pool.apply_async(print, args=["secret"], kwargs={})
    (record,) = (each for each in caplog.records if "Apply" in str(each.msg))
    assert record.msg == celery_logs.APPLY_FORMAT
    item = LogReader(LogOptions()).read(record)
    assert item is not None
    assert "secret" not in item.body
    assert item.body.startswith("TaskPool: Apply <")


def test_lines_of_others_are_theirs() -> None:
    assert line("shop", celery_consumer.UNKNOWN_FORMAT, "theirs").endswith("theirs\n")
