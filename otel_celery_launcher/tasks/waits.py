# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How long a task waited, in seconds: in the broker, and in the worker.

    published ── celery.wait.broker ── received ── celery.wait.worker ── started

The publisher writes the first time into the message's headers, the worker's main
process writes the second into the request, and the third is the current time in the
process that runs the task. An ETA or a countdown does not count as a wait, nor does a
timer that fires some milliseconds early, as gevent's may. The times come from wall
clocks of several machines, so a wait below zero is omitted.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from otel_celery_launcher.tasks.errors import text_of

# A header of the message: seconds since the epoch, as text. On a worker without this
# launcher it is among ``self.request.headers``, which the application may pass on as
# HTTP headers, and these must be text. Earlier releases wrote a number.
PUBLISHED_HEADER = "otel_celery_published"

# A key of the request, on its way from the main process to a pool child: seconds.
RECEIVED_KEY = "otel_celery_received"

# Times outside these bounds (the years 2004 and 2242) are ignored as implausible.
_EARLIEST_SECONDS, _LATEST_SECONDS = 2.0**30, 2.0**33

# When a task was published and received, as its message has it.
Times = tuple[object, object]


def published_now() -> str:
    """Return what PUBLISHED_HEADER is now: digits are cut faster than floats are written."""
    digits = str(time.time_ns())
    return f"{digits[:-9]}.{digits[-9:-3]}"


def take_times(fields: dict[str, Any]) -> Times:
    """Take our times out of a request's fields: the application finds none of ours."""
    return fields.pop(PUBLISHED_HEADER, None), fields.pop(RECEIVED_KEY, None)


def waits_now(times: Times, fields: dict[str, Any]) -> dict[str, float]:
    """Return the waits of a task that starts now.

    Args:
        times: Of ``take_times``.
        fields: Of its request.
    """
    return waits(times, fields.get("eta"), time.time())


def waits(times: Times, eta: object, started: float) -> dict[str, float]:
    """Return the waits of a task that starts now.

    Args:
        times: Of ``take_times``.
        eta: When it was to start at the earliest, as the message has it.
        started: Seconds since the epoch.
    """
    durations: dict[str, float] = {}
    published, received = times
    if type(received) is not float:
        return durations
    sent = _seconds(published)
    wanted = 0.0
    ready, begin = received, sent
    if eta is not None:
        wanted = _eta_seconds(eta)
        ready = max(received, wanted)
        if sent is not None and 0.0 < wanted <= received:
            begin = max(sent, wanted)
    if started >= received:
        durations["celery.wait.worker"] = started - ready if started > ready else 0.0
    if begin is not None and received >= begin:
        durations["celery.wait.broker"] = received - begin
    return durations


def _seconds(value: object) -> float | None:
    """Return a time of a message, which may hold anything there."""
    if not isinstance(value, (str, float, int)) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (OverflowError, ValueError):
        return None
    return seconds if _EARLIEST_SECONDS <= seconds <= _LATEST_SECONDS else None


def _eta_seconds(eta: object) -> float:
    """Return when the task was to start at the earliest; 0 for at once."""
    try:
        time_ = datetime.fromisoformat(text_of(eta).replace("Z", "+00:00"))
        if time_.tzinfo is None:  # Celery writes UTC
            time_ = time_.replace(tzinfo=timezone.utc)
        return time_.timestamp()
    except (OverflowError, ValueError):
        return 0.0
