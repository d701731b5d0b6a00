"""Waits, from whatever times a message has."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from otel_celery_launcher.tasks.waits import take_times, waits

T = 1_800_000_000.0  # seconds since the epoch


@pytest.mark.parametrize(
    ("published", "received", "eta", "started", "expected"),
    [
        (T + 10, T + 12, None, 15.0, {"broker": 2.0, "worker": 3.0}),
        (
            T + 10,
            T + 12,
            14.0,
            15.0,
            {"broker": 2.0, "worker": 1.0},
        ),  # held by the worker
        (
            T + 10,
            T + 12,
            11.0,
            15.0,
            {"broker": 1.0, "worker": 3.0},
        ),  # held by the broker
        (T + 10, T + 12, 14.0, 13.99, {"broker": 2.0, "worker": 0.0}),  # an early timer
        (T + 10, T + 12, None, 11.0, {"broker": 2.0}),  # the clock was set back
        (T + 20, T + 12, None, 15.0, {"worker": 3.0}),  # clocks apart
        (None, T + 12, None, 15.0, {"worker": 3.0}),  # published by somebody else
        (T + 10, None, None, 15.0, {}),
        (
            f"{T + 10}",
            T + 12,
            None,
            15.0,
            {"broker": 2.0, "worker": 3.0},
        ),  # as it is written
        ("soon", T + 12, None, 15.0, {"worker": 3.0}),
        ("nan", T + 12, None, 15.0, {"worker": 3.0}),
        (float("inf"), T + 12, None, 15.0, {"worker": 3.0}),
        ("-inf", T + 12, None, 15.0, {"worker": 3.0}),
        (-1e300, T + 12, None, 15.0, {"worker": 3.0}),
        (10**400, T + 12, None, 15.0, {"worker": 3.0}),
        ([T + 10], T + 12, None, 15.0, {"worker": 3.0}),
        (True, T + 12, None, 15.0, {"worker": 3.0}),
        ("5", T + 12, None, 15.0, {"worker": 3.0}),  # of 1970
        (T + 10, "12.0", None, 15.0, {}),  # received is ours alone, and no text
    ],
)
def test_waits(
    published: Any, received: Any, eta: Any, started: float, expected: dict[str, float]
) -> None:
    fields = {"otel_celery_published": published, "otel_celery_received": received}
    time_ = None if eta is None else datetime.fromtimestamp(T + eta, timezone.utc)
    found = waits(take_times(fields), time_ and time_.isoformat(), T + started)
    assert not fields, "the application finds none of ours"
    assert {name.rpartition(".")[2]: wait for name, wait in found.items()} == expected


@pytest.mark.parametrize(
    "eta", ["soon", 5, "1970-01-01T00:00:01Z", "1970-01-01T00:00:01"]
)
def test_an_odd_eta_does_no_harm(eta: Any) -> None:
    assert waits((None, 2.0), eta, 3.0) == {"celery.wait.worker": 1.0}
