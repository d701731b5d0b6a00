"""Celery's pools: which run tasks in the main process, and which keep its timers waiting."""

from __future__ import annotations

import pytest
from celery.concurrency import get_implementation

from otel_celery_launcher.compat import celery_pools


@pytest.mark.parametrize(
    ("pool", "never"),
    [("prefork", False), ("solo", True), ("threads", True), ("gevent", True)],
)
def test_pools_that_never_fork(pool: str, never: bool) -> None:
    assert celery_pools.never_forks(get_implementation(pool)) is never
    assert celery_pools.never_forks(pool) is never


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent"])
def test_only_solo_runs_tasks_in_the_main_loop(pool: str) -> None:
    assert celery_pools.runs_tasks_in_main_loop(pool) is (pool == "solo")
