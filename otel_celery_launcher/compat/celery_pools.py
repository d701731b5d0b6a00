# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Which of Celery's pools run tasks in the main process."""

from __future__ import annotations

from typing import Any

from celery.concurrency import get_implementation

_SOLO = "celery.concurrency.solo"

# Modules of the pools that run tasks in the main process.
_POOLS_WITHOUT_FORK = {
    _SOLO,
    "celery.concurrency.thread",
    "celery.concurrency.gevent",
    "celery.concurrency.eventlet",
}


def runs_tasks_in_main_loop(pool: type | str) -> bool:
    """Return whether a task keeps the main process's timers from running (solo)."""
    return _SOLO in _modules_of(pool)


def never_forks(pool: type | str) -> bool:
    """Return whether a pool runs tasks in the main process.

    Args:
        pool: Its class, or the name by which ``app.Worker(pool_cls=...)`` takes it.

    Raises:
        Exception: What the import of an application's own pool raises.
    """
    return not _POOLS_WITHOUT_FORK.isdisjoint(_modules_of(pool))


def _modules_of(pool: type | str) -> list[str]:
    kind: Any = get_implementation(pool) if isinstance(pool, str) else pool
    return [each.__module__ for each in kind.__mro__]
