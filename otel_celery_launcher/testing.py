# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A plugin for pytest: spans in memory, and nothing that leaves: docs/testing.md.

pytest loads it where ``-p otel_celery_launcher.testing`` or ``pytest_plugins`` names it;
it is no entry point, so it changes no other test run. Runs in pytest's own process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import otel_celery_launcher
from otel_celery_launcher.signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

ROLE = "test"


def pytest_addoption() -> None:
    """Let nothing leave unless a variable says so.

    pytest calls it as soon as it knows the plugin: before it imports the application,
    whose module may call ``setup()``. A ``.env`` file does not override this.
    """
    for signal in SIGNALS:
        os.environ.setdefault(f"OTEL_{signal.name.upper()}_EXPORTER", "none")
    # What a test does outside of tasks is to be seen, too.
    os.environ.setdefault("OTEL_CELERY_CLIENT_ROOTS", "always")


@pytest.fixture(scope="session")
def otel_celery_exporter() -> InMemorySpanExporter:
    """Set up tracing once for the whole run; ``celery_spans`` is for single tests."""
    otel_celery_launcher.setup(role=ROLE)
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not hasattr(provider, "add_span_processor"):
        pytest.fail(
            f"the tracer provider is a {type(provider).__name__}: expected one of the"
            " OpenTelemetry SDK; unset OTEL_SDK_DISABLED, or set no provider of your own",
            pytrace=False,
        )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def celery_spans(
    otel_celery_exporter: InMemorySpanExporter,
) -> Iterator[InMemorySpanExporter]:
    """Keep the spans that end while a test runs.

    Yields:
        The SDK's own exporter: ``get_finished_spans()`` returns them in the order of
        their ends, ``clear()`` forgets them.
    """
    otel_celery_exporter.clear()
    yield otel_celery_exporter
    otel_celery_exporter.clear()
