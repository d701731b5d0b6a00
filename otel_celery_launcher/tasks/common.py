# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What runs of a task have in common: made once, encoded once.

Runs wherever a task is run.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Common(NamedTuple):
    """What a run has in common with the one before it."""

    app: Any
    pid: int
    delivery: dict[str, Any] | None  # a copy: a task may change its request's
    hostname: object
    attributes: dict[str, Any]
    encoded: bytes

    def is_for(self, app: Any, pid: int, delivery: object, hostname: object) -> bool:
        """Return whether a run has these in common with it, too."""
        return (
            self.app is app
            and self.pid == pid
            and self.delivery == delivery
            and self.hostname == hostname
        )
