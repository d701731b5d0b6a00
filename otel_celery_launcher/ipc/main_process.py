# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Which process of a worker, or of a program, is the main one.

It alone supervises the exporter process, writes lines about delivery and ends the spans of
killed runs. One object, made by the launcher; forked children inherit it and are not the main one.
"""

from __future__ import annotations

import os


class MainProcess:
    """The process that was the launcher, until another one claims to be the one that stays."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def is_this(self) -> bool:
        """Return whether this process is the main one."""
        return self.pid == os.getpid()

    def claim(self) -> None:
        """Make this process the main one (after a detach, or where that one is gone)."""
        self.pid = os.getpid()

    def release(self) -> None:
        """Make another process the main one (in a spawned child)."""
        self.pid = -1
