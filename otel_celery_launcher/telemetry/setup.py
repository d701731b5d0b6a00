# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that makes a process traced, and how it is wound up.

``start`` runs once in each interpreter, before the application is imported: in the
launcher, and in a spawned pool child. Forked children inherit what it made; only their
resource changes (``set_slot``).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.util.re import parse_env_headers

from otel_celery_launcher import __version__, messages
from otel_celery_launcher.command_line import CELERY_ROLES
from otel_celery_launcher.compat import contexts, providers
from otel_celery_launcher.compat.monkey_patching import may_be_patched
from otel_celery_launcher.delivery.deadline import run_bounded
from otel_celery_launcher.delivery.exporters import (
    late_exporter_classes,
    load_exporter_classes,
)
from otel_celery_launcher.ipc.channel import Channel
from otel_celery_launcher.ipc.counters import EXPORTER_ROW, Counters
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.killed_span import Reason, lost_span
from otel_celery_launcher.routes.delivery_log import Reporter
from otel_celery_launcher.routes.handoff import ProcessExport
from otel_celery_launcher.routes.inline import InlineExport
from otel_celery_launcher.routes.supervisor import Supervisor
from otel_celery_launcher.routes.until_fork import AdaptiveExport
from otel_celery_launcher.settings.advice import shown_endpoint
from otel_celery_launcher.tasks.instrumentor import received_messages
from otel_celery_launcher.tasks.killed import LostRuns
from otel_celery_launcher.tasks.plumbing import keep_backends_quiet
from otel_celery_launcher.telemetry import log_correlation
from otel_celery_launcher.telemetry.application_providers import (
    Destination,
    ForeignProviders,
)
from otel_celery_launcher.telemetry.instrumentations import LeftOff, instrument
from otel_celery_launcher.telemetry.removed_imports import advise_on_imports
from otel_celery_launcher.telemetry.suppression import (
    ROLES_WITH_CLIENT_ROOTS,
    QuietTracers,
)
from otel_celery_launcher.telemetry.tracer_provider import instance_id, provide

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_celery_launcher.ipc.in_flight import RunningTask
    from otel_celery_launcher.settings.settings import Settings

Export = InlineExport | ProcessExport | AdaptiveExport


@dataclass(slots=True, kw_only=True)
class Telemetry:
    """What ``start`` made; launch/lifecycle.py moves it through a process's life."""

    settings: Settings
    quiet: QuietTracers
    export: Export
    channel: Channel | None
    reporter: Reporter
    counters: Counters
    foreign: ForeignProviders
    provider: TracerProvider | None
    instrumented: list[str]
    off: list[LeftOff]  # found instrumentations that are not on
    notes: list[str]
    lost_runs: LostRuns = field(init=False)
    is_spawned: bool = False  # a pool child in an interpreter of its own

    def __post_init__(self) -> None:
        self.lost_runs = LostRuns(self.counters, self.end_lost_run)
        self.quiet.on_left_out = lambda name: self.export.add_left_out(name)

    def set_slot(self, slot: str) -> None:
        """Give this process its ``service.instance.id``: the same for a successor."""
        if self.provider is not None:
            providers.set_resource(
                self.provider, self.slot_resource(slot, os.getpid(), os.getppid())
            )

    def slot_resource(self, slot: str, pid: int, parent_pid: int) -> Resource:
        """Return the resource of the process in a slot of the pool."""
        if self.provider is None:
            return Resource.get_empty()
        attributes = {**self.provider.resource.attributes}
        if "process.pid" in attributes:  # the process detector ran in the parent
            attributes["process.pid"] = pid
            attributes["process.parent_pid"] = parent_pid
        if not self.settings.has_instance_id:
            attributes["service.instance.id"] = instance_id(self.settings, slot)
        return Resource(attributes)

    def end_lost_run(
        self, slot: int, task: RunningTask, ended: int, reason: Reason | None
    ) -> None:
        """End the span of a run whose process is dead (main process)."""
        if self.provider is None:
            return
        resource = self.slot_resource(str(slot), task.pid, os.getpid())
        with suppress(FrameError):  # of a child whose memory was damaged
            providers.end_span(self.provider, lost_span(task, resource, ended, reason))

    def fall_back_to_inline(self, reason: str) -> None:
        """Export in each process, since no exporter process can be started."""
        self.export, _ = _inline_export(self.settings, self.counters, self.reporter)
        self.foreign.replace_handoff(self.export)
        os.environ["OTEL_CELERY_EXPORT"] = "inline"  # spawned children read it
        messages.log(
            f"no exporter process can be started ({reason}): each process of the worker"
            " exports its own spans"
        )

    def status(self) -> dict[str, Any]:
        """Return the worker's answer to ``inspect otel_status`` (main process)."""
        counters, settings = self.counters, self.settings
        return {
            "versions": {
                "otel-celery-launcher": __version__,
                **{name: version(name) for name in ("celery", "opentelemetry-sdk")},
            },
            "role": settings.role,
            "service_name": settings.service_name,
            "endpoint": shown_endpoint(settings.endpoint)
            if settings.sends_otlp
            else "",
            "exporters": list(settings.exporters),
            "mode": "process" if isinstance(self.export, ProcessExport) else "inline",
            "sampler": settings.sampler,
            "exported": counters.exported,
            "dropped": {
                "refused": sum(row.failed for row in counters.rows),
                "overflow": sum(row.dropped for row in counters.rows),
            },
            "received": counters.rows[EXPORTER_ROW].received,
            "queued": counters.queued,
            "left_out": counters.left_out,
            "last_error": counters.error,
            "is_failing": counters.refused > counters.reached,
            "received_messages": received_messages(),
            "exporter_restarts": self.export.restarts,
        }

    def descriptors(self) -> list[int]:
        """Return the numbers that are ours and open, for those who close all others."""
        channel = [] if self.channel is None else self.channel.descriptors()
        return [*channel, *self.counters.descriptors()]

    def close_child(self) -> None:
        """Send everything there is, as the last act of a pool child."""
        self._close(self.settings.shutdown_seconds * self.export.child_share)

    def close_main(self) -> None:
        """Send everything there is, as the last act of the main process."""
        self.lost_runs.poll(is_end=True)
        self._close(self.settings.shutdown_seconds * (1 - self.export.child_share))
        self.reporter.report_end()

    def _close(self, seconds: float) -> None:
        """Close ours; flush the application's processors beside it, if there are any."""
        flushes = self.foreign.flushes()
        if not flushes:
            self.export.close(seconds)
            return
        run_bounded(
            [lambda: self.export.close(seconds), *flushes],
            seconds + 0.25,  # ours ends by itself; a foreign one may not
        )


def start(
    settings: Settings,
    counters_descriptor: int | None = None,
    channel: Channel | None = None,
    resource: dict[str, Any] | None = None,
) -> Telemetry:
    """Set up tracing in this interpreter.

    Args:
        settings: What to set up.
        counters_descriptor: The main process's counters, in a spawned child.
        channel: The main process's channel, in a spawned child.
        resource: The main process's resource, in a spawned child.
    """
    contexts.let_exceptions_through_detach()
    advise_on_imports()
    counters = Counters(counters_descriptor)
    reporter = Reporter(
        counters, shown_endpoint(settings.endpoint), settings.shown_path
    )
    if counters_descriptor is not None:
        reporter.disown()
    notes: list[str] = []
    export: Export
    if settings.mode == "process":
        is_main = channel is None
        channel = channel or Channel.make()
        export = _process_export(settings, counters, reporter, channel, is_main=is_main)
    else:
        inline, notes = _inline_export(settings, counters, reporter)
        export = inline
        if settings.mode == "adaptive":
            export = AdaptiveExport(
                inline,
                lambda: _process_export(
                    settings, counters, reporter, Channel.make(), is_main=True
                ),
            )
    foreign = ForeignProviders(export, _destination(settings))
    quiet = QuietTracers(
        client_roots=settings.client_roots,
        is_theirs=settings.role in ROLES_WITH_CLIENT_ROOTS,
        has_duplicates=settings.has_duplicates,
        roots_per_second=settings.roots_per_second,
    )
    provider, provider_notes = provide(settings, foreign, quiet, resource)
    keep_backends_quiet(
        has_plumbing=settings.tasks.has_plumbing, runs_tasks=settings.role == "worker"
    )
    notes += provider_notes
    log_correlation.silence_propagators()
    log_correlation.add_ids(settings.service_name)
    if settings.log_correlation:
        log_correlation.write_ids(settings.service_name)
    if settings.shows_contexts:
        messages.show_contexts()
    instrumented, off, failed = instrument(settings, foreign.adopt)
    notes += failed
    foreign.say_at_once()
    return Telemetry(
        settings=settings,
        quiet=quiet,
        export=export,
        channel=channel,
        reporter=reporter,
        counters=counters,
        foreign=foreign,
        provider=provider,
        instrumented=instrumented,
        off=off,
        notes=notes,
    )


def _destination(settings: Settings) -> Destination | None:
    """Return where we send by OTLP, if we do."""
    if not settings.sends_otlp:
        return None
    headers = parse_env_headers(settings.headers, liberal=True)
    return Destination.read(settings.url, headers)


def _process_export(
    settings: Settings,
    counters: Counters,
    reporter: Reporter,
    channel: Channel,
    *,
    is_main: bool,
) -> ProcessExport:
    supervisor = Supervisor(
        channel,
        counters,
        settings.exporters,
        settings.service_name,
        hides_messages=settings.hides_exception_messages,
    )
    return ProcessExport(
        channel,
        counters,
        reporter,
        supervisor if is_main else None,
        is_started=settings.role not in CELERY_ROLES,
        has_timer=settings.role == "worker",
    )


def _inline_export(
    settings: Settings, counters: Counters, reporter: Reporter
) -> tuple[InlineExport, list[str]]:
    # Where a monkey patch may follow, before which gRPC and requests are not imported,
    # or a fork, after which an exporter process does it.
    is_late = settings.mode == "adaptive" and may_be_patched()
    load = late_exporter_classes if is_late else load_exporter_classes
    classes, problems = load(
        settings.exporters, hides_messages=settings.hides_exception_messages
    )
    export = InlineExport(
        classes,
        counters,
        reporter,
        holds=settings.role in CELERY_ROLES,
        forks_safely="otlp_proto_grpc" not in settings.exporters,
        pending_limit=settings.pending_limit,
    )
    return export, problems
