# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Each record that a logger hands to its handlers is taken, once, before them."""

from __future__ import annotations

import hashlib
import inspect
import logging
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.logs.capture import take_no_records, take_records

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken() -> Iterator[list[logging.LogRecord]]:
    before = logging.Logger.callHandlers
    found: list[logging.LogRecord] = []
    take_records(found.append)
    yield found
    take_no_records()
    assert logging.Logger.callHandlers is before


def test_whatever_handlers_there_are(taken: list[logging.LogRecord]) -> None:
    parent, child = logging.getLogger("taken"), logging.getLogger("taken.child")
    parent.setLevel(logging.INFO)
    child.info("to the parent")
    child.propagate = False
    child.addHandler(logging.NullHandler())
    child.info("its own")
    child.debug("below the level")
    child.addFilter(lambda _: False)
    child.info("filtered")
    assert [each.getMessage() for each in taken] == ["to the parent", "its own"]


def test_before_the_handlers(taken: list[logging.LogRecord]) -> None:
    class Dies(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    logger = logging.getLogger("dies")
    logger.addHandler(Dies())
    with pytest.raises(SystemExit):
        logger.warning("last words")
    assert taken[-1].getMessage() == "last words"


def test_the_method_is_what_it_was_when_this_was_written() -> None:
    """Its source is the same in Python 3.10 to 3.13."""
    source = inspect.getsource(logging.Logger.callHandlers)
    assert hashlib.sha256(source.encode()).hexdigest() == CALL_HANDLERS


CALL_HANDLERS = "9fddb1c3556ed12d78eb54ad6b89105ae884a70b30390ca27cd9a18197c2d223"
