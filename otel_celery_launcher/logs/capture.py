# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Takes each record that the application's own loggers hand to their handlers.

At ``logging.Logger.callHandlers``: after the logger's level, its filters and
``disabled``, with any handlers or none. Celery throws handlers of the root logger away
when it sets up its own, does not let ``celery.task`` propagate, and adds none where
there is one. So a handler would miss lines, or change what Celery writes.

Runs in every process, in the thread that logs, before the record's handlers: the line
is out if the process dies in one.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK = "_otel_celery_take"


def take_records(take: Callable[[logging.LogRecord], object]) -> None:
    """Call ``take`` with each record from here on, in this process and those forked from it.

    Args:
        take: Must raise nothing but what a signal handler raises in it, such as a soft
            time limit.
    """
    call_handlers = logging.Logger.callHandlers

    @wraps(call_handlers)
    def take_and_call(logger: logging.Logger, record: logging.LogRecord) -> None:
        take(record)
        call_handlers(logger, record)

    setattr(take_and_call, _MARK, call_handlers)
    logging.Logger.callHandlers = take_and_call  # type: ignore[assignment,method-assign]


def take_no_records() -> None:
    """Undo ``take_records``, unless somebody else has wrapped the method since."""
    call_handlers = getattr(logging.Logger.callHandlers, _MARK, None)
    if call_handlers is not None:
        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
