"""The contrib instrumentor: private names that we lean on."""

from __future__ import annotations

from opentelemetry.instrumentation.celery import CeleryInstrumentor

from otel_celery_launcher.compat import (
    celery_instrumentor,
)


def test_celery_instrumentor_is_one_instance_that_can_be_ours() -> None:
    before = CeleryInstrumentor._instance
    ours = object.__new__(CeleryInstrumentor)
    celery_instrumentor.take_over_celery_instrumentor(ours)
    assert CeleryInstrumentor() is ours
    CeleryInstrumentor._instance = before


def test_a_subclass_has_an_instance_of_its_own_beside_that_of_the_class() -> None:
    class Subclass(CeleryInstrumentor):
        pass

    present = CeleryInstrumentor()
    made = celery_instrumentor.make_instance(Subclass)
    assert type(made) is Subclass
    assert made is not present
    assert made is Subclass()
