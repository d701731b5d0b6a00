# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""TracerProvider, resource, propagator and instrumentations, from the settings.

``start`` runs once in each interpreter, before the application is imported: in the
launcher, and in a spawned pool child. Forked children inherit what it made; only their
resource changes (``begin_pool_child``).
"""

from __future__ import annotations

import os
import random
import socket
import uuid
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from otel_celery_launcher import __version__, _compat
from otel_celery_launcher.exporter.bounded import run_bounded
from otel_celery_launcher.exporter.counters import Counters
from otel_celery_launcher.exporter.exporters import load_exporter_classes
from otel_celery_launcher.exporter.inline import InlineExport
from otel_celery_launcher.exporter.reporter import Reporter
from otel_celery_launcher.exporter.supervisor import Supervisor
from otel_celery_launcher.foreign import ForeignProviders
from otel_celery_launcher.handoff.channel import Channel
from otel_celery_launcher.handoff.processor import ProcessExport
from otel_celery_launcher.settings import hide_password
from otel_celery_launcher.tasks.spans import instrument_celery

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler

    from otel_celery_launcher.settings import Settings

# https://opentelemetry.io/docs/specs/semconv/resource/service/ (UUIDv5 namespace)
INSTANCE_ID_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

# Roles whose process forks or detaches before it is the one that stays.
HOLDING_ROLES = frozenset({"worker", "beat"})

# Django's wants the settings imported before the application has named them, and there
# are no web requests in a worker.
WEB_ONLY_INSTRUMENTATIONS = frozenset({"django"})


class SystemIdGenerator(RandomIdGenerator):
    """Ids from the operating system: ``random.seed(42)`` in a task repeats none."""

    _random = random.SystemRandom()

    def generate_span_id(self) -> int:
        """Return a span id, never 0."""
        while True:
            span_id = self._random.getrandbits(64)
            if span_id != trace.INVALID_SPAN_ID:
                return span_id

    def generate_trace_id(self) -> int:
        """Return a trace id, never 0."""
        while True:
            trace_id = self._random.getrandbits(128)
            if trace_id != trace.INVALID_TRACE_ID:
                return trace_id


@dataclass(slots=True, kw_only=True)
class Telemetry:
    """What ``start`` made; lifecycle.py moves it through a process's life."""

    settings: Settings
    export: InlineExport | ProcessExport
    channel: Channel | None
    reporter: Reporter
    counters: Counters
    foreign: ForeignProviders
    provider: TracerProvider | None
    instrumented: list[str]
    notes: list[str]
    is_spawned: bool = False  # a pool child in an interpreter of its own

    def set_slot(self, slot: str) -> None:
        """Give this process its ``service.instance.id``: the same for a successor."""
        if self.provider is not None:
            attributes = {**self.provider.resource.attributes}
            if "process.pid" in attributes:  # the process detector ran in the parent
                attributes["process.pid"] = os.getpid()
                attributes["process.parent_pid"] = os.getppid()
            if not self.settings.has_instance_id:
                attributes["service.instance.id"] = instance_id(self.settings, slot)
            _compat.set_resource(self.provider, Resource(attributes))

    def close_child(self) -> None:
        """Send everything there is, as the last act of a pool child."""
        self._close(self.settings.shutdown_seconds * self.export.child_share)

    def close_main(self) -> None:
        """Send everything there is, as the last act of the main process."""
        self._close(self.settings.shutdown_seconds * (1 - self.export.child_share))
        self.reporter.poll()

    def _close(self, seconds: float) -> None:
        """Close ours, and flush the application's processors, side by side."""
        run_bounded(
            [lambda: self.export.close(seconds), *self.foreign.flushes()],
            seconds + 0.25,  # ours ends by itself; a foreign one may not
        )


def start(
    settings: Settings,
    counters_descriptor: int | None = None,
    channel: Channel | None = None,
) -> Telemetry:
    """Set up tracing in this interpreter.

    Args:
        settings: What to set up.
        counters_descriptor: The main process's counters, in a spawned child.
        channel: The main process's channel, in a spawned child.
    """
    _compat.let_exceptions_through_detach()
    counters = Counters(counters_descriptor)
    reporter = Reporter(counters, hide_password(settings.endpoint))
    if counters_descriptor is not None:
        reporter.disown()
    export: InlineExport | ProcessExport
    if settings.mode == "process":
        is_main = channel is None
        channel = channel or Channel.make()
        supervisor = Supervisor(channel, counters, settings.exporters)
        export = ProcessExport(
            channel, counters, reporter, supervisor if is_main else None
        )
        notes: list[str] = []
    else:
        export, notes = _inline_export(settings, counters, reporter)
    foreign = ForeignProviders(export, settings.endpoint)
    provider, provider_notes = _provide(settings, export, foreign)
    notes += provider_notes
    instrumented, off = _instrument(settings)
    notes += off
    return Telemetry(
        settings=settings,
        export=export,
        channel=channel,
        reporter=reporter,
        counters=counters,
        foreign=foreign,
        provider=provider,
        instrumented=instrumented,
        notes=notes,
    )


def _inline_export(
    settings: Settings, counters: Counters, reporter: Reporter
) -> tuple[InlineExport, list[str]]:
    classes, problems = load_exporter_classes(settings.exporters)
    export = InlineExport(
        classes,
        counters,
        reporter,
        holds=settings.role in HOLDING_ROLES,
        forks_safely="otlp_proto_grpc" not in settings.exporters,
        pending_limit=settings.pending_limit,
    )
    return export, problems


def instance_id(settings: Settings, slot: str) -> str:
    """Return a stable ``service.instance.id`` for a slot of a worker on a host."""
    parts = (settings.service_name, socket.gethostname(), settings.node, slot)
    return str(uuid.uuid5(INSTANCE_ID_NAMESPACE, "/".join(parts)))


def _provide(
    settings: Settings, export: SpanProcessor, foreign: ForeignProviders
) -> tuple[TracerProvider | None, list[str]]:
    """Return the provider we may change, and what to say about it."""
    if _compat.has_tracer_provider():
        present = trace.get_tracer_provider()
        if not isinstance(present, TracerProvider):
            owner = type(present).__module__.partition(".")[0]
            return None, [
                f"a tracer provider of {owner} is in place: spans go through it, not"
                " through otel-celery's exporter"
            ]
        foreign.guard(present)
        _complete_resource(present, settings)
        return present, ["a tracer provider is in place and kept", *foreign.notes]
    provider = _compat.ForkableTracerProvider(
        sampler=_sampler(settings),
        resource=_resource(settings),
        id_generator=_id_generator(settings),
        shutdown_on_exit=False,
    )
    foreign.guard(provider)
    trace.set_tracer_provider(provider)
    foreign.watch_set_tracer_provider()
    return provider, []


def _resource(settings: Settings) -> Resource:
    attributes = {
        "service.name": settings.service_name,
        "celery.role": settings.role,
        "telemetry.distro.name": "otel-celery",
        "telemetry.distro.version": __version__,
    }
    if not settings.has_instance_id:
        attributes["service.instance.id"] = instance_id(settings, "main")
    return Resource.create(attributes)


def _complete_resource(provider: TracerProvider, settings: Settings) -> None:
    """Add what a provider that is not ours lacks."""
    present = dict(provider.resource.attributes)
    if str(present.get("service.name", "")).startswith("unknown_service"):
        del present["service.name"]
    _compat.set_resource(
        provider, Resource({**_resource(settings).attributes, **present})
    )


def _sampler(settings: Settings) -> Sampler:
    argument: float | str | None = settings.sampler_argument
    if settings.sampler.endswith("traceidratio"):
        argument = float(settings.sampler_argument or 1.0)
    make = _component("opentelemetry_traces_sampler", settings.sampler)
    return make(argument)  # type: ignore[no-any-return]


def _id_generator(settings: Settings) -> IdGenerator:
    if settings.id_generator == "random":
        return SystemIdGenerator()
    make = _component("opentelemetry_id_generator", settings.id_generator)
    return make()  # type: ignore[no-any-return]


def _component(group: str, name: str) -> Any:
    """Return an installed component; checks.py has made sure that it is there."""
    return next(iter(entry_points(group=group, name=name))).load()


def _instrument(settings: Settings) -> tuple[list[str], list[str]]:
    """Turn on Celery's instrumentation and all other installed ones.

    Returns:
        The names that are on, and a line for each that is off against expectation.
    """
    disabled = settings.disabled_instrumentations
    on: list[str] = []
    off: list[str] = []
    if "*" in disabled:
        return on, off
    for entry_point in sorted(entry_points(group="opentelemetry_instrumentor")):
        name = entry_point.name
        if name in disabled or name in WEB_ONLY_INSTRUMENTATIONS:
            continue
        try:
            if name == "celery":
                instrument_celery()
            elif not _instrument_one(entry_point):
                continue
        except Exception as exc:  # noqa: BLE001 - a stranger's code, at start
            off.append(
                f"the instrumentation {name} is off: {type(exc).__name__}: {exc}"
            )
        else:
            on.append(name)
    return on, off


def _instrument_one(entry_point: EntryPoint) -> bool:
    distribution = entry_point.dist
    if distribution is not None and get_dist_dependency_conflicts(distribution):
        return False  # its library is not installed, or another version
    instrumentor = entry_point.load()()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(skip_dep_check=True)
    return True
