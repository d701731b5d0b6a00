# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What one process of a worker, or of a program, does and no other.

The main process writes lines about delivery, ends the spans of killed runs and touches the
health file. Another claim is that of the process which supervises the exporter process:
where a program forks, that may be any of its processes. Made by the launcher; forked
children inherit the object and do not hold the claim.
"""

from __future__ import annotations

import os


class ProcessClaim:
    """Which process it is: the one that made this object, until another one claims it."""

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
