# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the limit of open files before a process is traced.

gRPC's core ends the process by SIGABRT if it gets no descriptor for its event loop
(grpcio 1.85, ``posix_engine.cc``). No code can catch that, so it must be prevented.
"""

from __future__ import annotations

import os

# Ours: the counters and the channel. gRPC's: its event loop, wake-ups, one connection.
# Together 11 where a task is published over Redis; the rest is for the application.
NEEDED_DESCRIPTORS = 32


def require_descriptors() -> None:
    """Raise where there is no room for what tracing and Celery open.

    Raises:
        OSError: Too many files are open (``ulimit -n``).
    """
    opened: list[int] = []
    try:
        for _ in range(NEEDED_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - those before a failure are closed
    finally:
        for descriptor in opened:
            os.close(descriptor)
