# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The TracerProvider and what it is made of: sampler, id generator.

Runs once in each interpreter, before the application is imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from otel_celery_launcher.compat import providers
from otel_celery_launcher.settings.checks import load_component
from otel_celery_launcher.tasks.sampling import TaskSampler
from otel_celery_launcher.telemetry.application_providers import sdk_provider
from otel_celery_launcher.telemetry.resource import complete_resource, make_resource

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler

    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.telemetry.application_providers import (
        ApplicationProviders,
    )
    from otel_celery_launcher.telemetry.suppression import SpanSuppressor


class SystemIdGenerator(RandomIdGenerator):
    """Ids from the operating system: ``random.seed(42)`` in a task repeats none."""

    def generate_span_id(self) -> int:
        """Return a span id, never 0."""
        while True:
            span_id = int.from_bytes(os.urandom(8), "big")
            if span_id != trace.INVALID_SPAN_ID:
                return span_id

    def generate_trace_id(self) -> int:
        """Return a trace id, never 0."""
        while True:
            trace_id = int.from_bytes(os.urandom(16), "big")
            if trace_id != trace.INVALID_TRACE_ID:
                return trace_id


def provide(
    settings: Settings,
    application_providers: ApplicationProviders,
    suppressor: SpanSuppressor,
    resource: dict[str, Any] | None,
) -> tuple[TracerProvider | None, list[str]]:
    """Return the SDK's provider, or None if another kind is set, and lines to print.

    Sets the global provider unless one is set already.
    """
    if providers.has_tracer_provider():
        present = sdk_provider(given := trace.get_tracer_provider())
        if present is None:
            owner = type(given).__module__.partition(".")[0]
            return None, [
                f"a tracer provider of {owner} is in place: spans go through it, not"
                " through otel-celery's exporter"
            ]
        application_providers.guard(present)
        complete_resource(present, settings)
        present.sampler = _by_task(present.sampler, settings)
        return present, [
            "a tracer provider is in place and kept",
            *application_providers.notes,
        ]
    provider = providers.ForkableTracerProvider(
        wrap_tracer=suppressor.wrap,
        sampler=_sampler(settings),
        resource=Resource(resource) if resource else make_resource(settings),
        id_generator=_id_generator(settings),
        shutdown_on_exit=False,
    )
    application_providers.guard(provider)
    trace.set_tracer_provider(provider)
    application_providers.watch_set_tracer_provider()
    return provider, []


def _by_task(sampler: Sampler, settings: Settings) -> Sampler:
    ratios = settings.tasks.sample
    return TaskSampler(ratios, sampler) if ratios else sampler


def _sampler(settings: Settings) -> Sampler:
    argument: float | str | None = settings.sampler_argument
    if settings.sampler.endswith("traceidratio"):
        argument = float(settings.sampler_argument or 1.0)
    make = load_component("opentelemetry_traces_sampler", settings.sampler)
    return _by_task(make(argument), settings)


def _id_generator(settings: Settings) -> IdGenerator:
    if settings.id_generator == "random":
        return SystemIdGenerator()
    make = load_component("opentelemetry_id_generator", settings.id_generator)
    return make()  # type: ignore[no-any-return]
