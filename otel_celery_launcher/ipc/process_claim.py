# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Claims to duties that exactly one process of a worker or of a program has.

One claim is that of the main process, which writes lines about delivery, ends the spans
of killed runs and touches the health file. Another is that of the process that
supervises the exporter process; in a program that forks, this may be any of its
processes. The launcher makes a claim; forked children inherit the object but do not
hold the claim.
"""

from __future__ import annotations

import os


class ProcessClaim:
    """Held by the process that made this object, until another process claims it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def is_this(self) -> bool:
        """Return whether this process holds it."""
        return self.pid == os.getpid()

    def claim(self) -> None:
        """Hold it from now on (after a detach, or where the one before is gone)."""
        self.pid = os.getpid()

    def release(self) -> None:
        """Leave it to another process (in a spawned child)."""
        self.pid = -1
