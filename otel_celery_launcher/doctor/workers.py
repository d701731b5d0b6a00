# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The workers that run now: launched by us or not, delivering or not."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.status import NAME


def check_workers(app: Any, seconds: float) -> list[Finding]:
    """Ask every worker that answers for its status.

    Args:
        app: The application, whose broker was reached.
        seconds: How long to wait for answers.
    """
    alive = _ask(app, "ping", seconds)
    if not alive:
        return [Finding(level=OK, check="workers", seen="none answers")]
    told = _ask(app, NAME, seconds)
    return [_of_one(node, told.get(node)) for node in sorted(alive)]


def _ask(app: Any, command: str, seconds: float) -> dict[str, Any]:
    """Return the answer of each worker, by node name."""
    found: dict[str, Any] = {}
    for answer in app.control.broadcast(command, reply=True, timeout=seconds) or ():
        found.update(answer)
    return found


def _of_one(node: str, status: Any) -> Finding:
    if not isinstance(status, dict) or "service_name" not in status:
        return Finding(
            level=WARN,
            check="workers",
            seen=f"{node} was not started by otel-celery",
            next="start it by otel-celery in the place of celery",
        )
    dropped = {key: value for key, value in status["dropped"].items() if value}
    seen = f"{node}, service {status['service_name']!r}, exported {status['exported']}"
    if dropped:
        told = ", ".join(f"{value} {key}" for key, value in dropped.items())
        error = status["last_error"] or "none"
        return Finding(
            level=FAIL,
            check="workers",
            seen=f"{seen}, lost {told}; last error: {error}",
            next=f"look at the log of {node} and at its collector",
        )
    return Finding(level=OK, check="workers", seen=seen)
