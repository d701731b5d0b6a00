# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How long a task waited, in seconds: in the broker, and in the worker.

    published ── celery.wait.broker ── received ── celery.wait.worker ── started

Published is written into the message's headers by the publisher, received into the
request by the worker's main process, started is now, in whatever process runs the task.
What an ETA or a countdown asked for is no wait; a timer that fires some milliseconds
before it, as gevent's may, is no wait of less than nothing. Wall clocks of several
machines: a wait below zero is left out.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# A header of the message: seconds since the epoch. Becomes an attribute of the request.
PUBLISHED_HEADER = "otel_celery_published"

# A key of the request, on its way from the main process to a pool child.
RECEIVED_KEY = "otel_celery_received"


def note_received(request: Any = None, **_: Any) -> None:
    """Receiver of ``task_received``, in the worker's main process."""
    request.request_dict[RECEIVED_KEY] = time.time()


def waits(told: Mapping[str, Any], started: float) -> dict[str, float]:
    """Return the waits of a task that starts now.

    Args:
        told: What the message says, by Celery's names.
        started: Seconds since the epoch.
    """
    found: dict[str, float] = {}
    published, received = told.get(PUBLISHED_HEADER), told.get(RECEIVED_KEY)
    if not isinstance(received, (int, float)):
        return found
    eta = told.get("eta")
    wanted = _seconds(eta) if eta else 0.0
    if started >= received:
        ready = received if received >= wanted else wanted
        found["celery.wait.worker"] = started - ready if started > ready else 0.0
    if isinstance(published, (int, float)):
        begin = max(published, wanted) if 0.0 < wanted <= received else published
        if received >= begin:
            found["celery.wait.broker"] = received - begin
    return found


def _seconds(eta: object) -> float:
    """Return when the task was to start at the earliest; 0 for at once."""
    try:
        time_ = datetime.fromisoformat(str(eta).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    if time_.tzinfo is None:  # Celery writes UTC
        time_ = time_.replace(tzinfo=timezone.utc)
    return time_.timestamp()
