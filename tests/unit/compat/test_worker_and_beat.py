"""Where Celery makes a worker and a beat: private names that we lean on."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.beat import Service
from celery.worker.worker import WorkController

from otel_celery_launcher.compat import (
    celery_private,
)


@pytest.mark.parametrize("made", [WorkController, Service])
def test_a_worker_and_a_beat_are_made_with_their_application(
    monkeypatch: pytest.MonkeyPatch, made: Any
) -> None:
    monkeypatch.setattr(made, "__init__", made.__init__)
    seen: list[Any] = []
    celery_private.call_at_start(seen.append)
    app = Celery(set_as_current=False)
    made(app)
    assert seen == [app]
