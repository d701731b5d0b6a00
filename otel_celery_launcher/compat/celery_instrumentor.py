# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of the contrib instrumentor of Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

Instrumentor = TypeVar("Instrumentor", bound="CeleryInstrumentor")


def take_over_celery_instrumentor(instance: CeleryInstrumentor) -> None:
    """Make ``CeleryInstrumentor()`` return our instance everywhere.

    ``BaseInstrumentor`` keeps one instance a class, so an application's own call of
    ``CeleryInstrumentor().instrument()`` would instrument a second time.
    """
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor._instance = instance


def make_instance(class_: type[Instrumentor]) -> Instrumentor:
    """Return a new instance of a subclass, though there is one of the class already."""
    class_._instance = None
    return class_()
