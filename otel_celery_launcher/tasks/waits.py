# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How long a task waited, in seconds: in the broker, and in the worker.

    published ── celery.wait.broker ── received ── celery.wait.worker ── started

Published is written into the message's headers by the publisher, received into the
request by the worker's main process, started is now, in whatever process runs the task.
What an ETA or a countdown asked for is no wait. Wall clocks of several machines: a wait
below zero is left out.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

# A header of the message: seconds since the epoch. Becomes an attribute of the request.
PUBLISHED_HEADER = "otel_celery_published"

# A key of the request, on its way from the main process to a pool child.
RECEIVED_KEY = "otel_celery_received"


def note_received(request: Any = None, **_: Any) -> None:
    """Receiver of ``task_received``, in the worker's main process."""
    request.request_dict[RECEIVED_KEY] = time.time()


def waits(request: Any, started: float) -> dict[str, float]:
    """Return the waits of a task that starts now.

    Args:
        request: The task's request.
        started: Seconds since the epoch.
    """
    found = {}
    published = _number(request, PUBLISHED_HEADER)
    received = _number(request, RECEIVED_KEY)
    wanted = _eta(request)
    if published is not None and received is not None:
        begin = max(published, wanted) if wanted <= received else published
        found["celery.wait.broker"] = received - begin
    if received is not None:
        found["celery.wait.worker"] = started - max(received, wanted)
    return {name: seconds for name, seconds in found.items() if seconds >= 0}


def _number(request: Any, name: str) -> float | None:
    value = getattr(request, name, None)
    return float(value) if isinstance(value, (int, float)) else None


def _eta(request: Any) -> float:
    """Return when the task was to start at the earliest; 0 for at once."""
    if not request.eta:
        return 0.0
    try:
        eta = datetime.fromisoformat(str(request.eta).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    if eta.tzinfo is None:  # Celery writes UTC
        eta = eta.replace(tzinfo=timezone.utc)
    return eta.timestamp()
