# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs calls that may block with a time limit.

The SDK's ``force_flush`` ignores its timeout and ``shutdown`` waits 30 s
(opentelemetry-sdk 1.45, ``_shared_internal``). The calls run in daemon threads: one
that exceeds its time ends with the process.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# How often a wait looks whether it has become hopeless.
_LOOK_SECONDS = 0.005


def run_with_deadline(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    is_hopeless: Callable[[float], bool] = lambda _: False,
) -> bool:
    """Run the calls side by side, with a time limit.

    Args:
        calls: The calls to run; their exceptions are discarded.
        seconds: The time limit.
        is_hopeless: Called with the seconds waited; True ends the wait early.

    Returns:
        Whether all of them ended.
    """
    threads = [
        threading.Thread(
            target=_run_quietly, args=(call,), daemon=True, name="otel-deadline"
        )
        for call in calls
    ]
    start = time.monotonic()
    for thread, call in zip(threads, calls, strict=True):
        if _starts(thread):
            continue
        if is_hopeless(seconds) or not _is_ending():
            return False
        _run_quietly(call)  # the exporters' own timeouts are the bound
    for thread in threads:
        while thread.is_alive():
            waited = time.monotonic() - start
            if waited >= seconds or is_hopeless(waited):
                return False
            # Not join: with eventlet on Python 3.13 its timeout is an exception.
            time.sleep(min(_LOOK_SECONDS, seconds - waited))
    return True


def _starts(thread: threading.Thread) -> bool:
    """Start a thread; return False if Python cannot start any.

    Python 3.12.0 and 3.12.1 start no thread in ``atexit``; no release starts one while
    the interpreter shuts down (https://github.com/python/cpython/issues/113964).
    """
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _is_ending() -> bool:
    """Return whether the main thread has run to its end, as it has in ``atexit``."""
    return not threading.main_thread().is_alive() or sys.is_finalizing()


def _run_quietly(call: Callable[[], object]) -> None:
    # A third-party processor, at a process's end: what it raises helps nobody.
    with contextlib.suppress(Exception):
        call()
