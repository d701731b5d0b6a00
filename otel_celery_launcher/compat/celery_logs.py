# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own log lines: which of their parts are arguments and results of tasks.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_celery_logs.py``.
Verified with Celery 5.3 to 5.7. Runs in every process of a worker, where a line is made.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

# Keys of the context that Celery formats its lines about a task with, and passes on as
# ``data`` (celery ``app/trace.py``, ``worker/strategy.py``).
RESULTS_AND_ARGUMENTS = frozenset({"return_value", "args", "kwargs"})
EXCEPTIONS = frozenset({"exc", "traceback"})

# Formats by their constants, and how much of each may leave: what follows has bodies and
# headers of messages (celery ``worker/consumer/consumer.py``).
_CONSUMER = "celery.worker.consumer.consumer"
_SHORTENED = {
    "UNKNOWN_FORMAT": ("Received and deleted unknown message.", 0),
    "UNKNOWN_TASK_ERROR": ("Received unregistered task of type %s.", 1),
    "INVALID_TASK_ERROR": ("Received invalid task message: %s", 1),
    "MESSAGE_DECODE_ERROR": ("Can't decode message body: %s", 1),
}

# The line of each task on the level DEBUG (celery ``concurrency/base.py``).
APPLY_FORMAT = "TaskPool: Apply %s (args:%s kwargs:%s)"
APPLY_SHORTENED = ("TaskPool: Apply %s", 1)


def context_of(record: logging.LogRecord) -> Mapping[str, Any] | None:
    """Return the context of Celery's line about a task; None of any other record."""
    context = record.args
    if (
        type(context) is dict
        and "id" in context
        and "name" in context
        and record.name.startswith("celery.")
    ):
        return context
    return None


def shortened(record: logging.LogRecord) -> tuple[str, int] | None:
    """Return what may leave of a line with bodies or arguments of messages.

    Returns:
        A format, and how many of the record's arguments it takes; None of any other
        record.
    """
    if not record.name.startswith("celery."):
        return None
    if record.msg == APPLY_FORMAT:
        return APPLY_SHORTENED
    consumer = sys.modules.get(_CONSUMER)
    if consumer is None or record.name != _CONSUMER:
        return None
    for constant, short in _SHORTENED.items():
        if record.msg == getattr(consumer, constant, None):
            return short
    return None
