"""The contrib instrumentor: private names that we lean on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.instrumentation.celery import CeleryInstrumentor

from otel_celery_launcher.compat import (
    celery_instrumentor,
)

if TYPE_CHECKING:
    pass


def test_celery_instrumentor_is_one_instance_that_can_be_ours() -> None:
    before = CeleryInstrumentor._instance
    ours = object.__new__(CeleryInstrumentor)
    celery_instrumentor.take_over_celery_instrumentor(ours)
    assert CeleryInstrumentor() is ours
    CeleryInstrumentor._instance = before
