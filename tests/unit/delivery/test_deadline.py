"""Calls that may block, and a deadline."""

from __future__ import annotations

import threading
import time

from otel_celery_launcher.delivery.deadline import run_with_deadline


def test_bounded_calls_end_in_time_and_run_side_by_side() -> None:
    never = threading.Event()
    start = time.monotonic()
    assert run_with_deadline([lambda: never.wait(0.2)] * 5, 5)
    assert time.monotonic() - start < 0.9
    start = time.monotonic()
    assert not run_with_deadline([lambda: never.wait(30)], 0.1)
    assert not run_with_deadline(
        [lambda: never.wait(30)], 30, lambda waited: waited > 0.1
    )
    assert time.monotonic() - start < 5
    never.set()


def test_what_a_bounded_call_raises_is_lost() -> None:
    assert run_with_deadline([lambda: 1 / 0], 5)
