# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that makes a process traced, and how it is shut down.

``start`` runs once in each interpreter, before the application is imported: in the
launcher, in a traced program, and in a spawned pool child. Forked children inherit what
it made; ``launch/lifecycle.py`` gives them a resource and a row of their own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.util.re import parse_env_headers

from otel_celery_launcher import __version__, messages
from otel_celery_launcher.compat import celery_worker, contexts, providers
from otel_celery_launcher.compat.loguru_sinks import is_loguru_apart
from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.in_flight import WORKER_LOST, Reason, killed_span
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.ipc.span_decoder import read_counted_run
from otel_celery_launcher.routes.delivery_log import DeliveryLog
from otel_celery_launcher.routes.handoff import HandoffRoute
from otel_celery_launcher.settings.advice import printable_endpoint
from otel_celery_launcher.settings.checks import printable
from otel_celery_launcher.settings.settings import Mode
from otel_celery_launcher.signals import LOGS, METRICS, TRACES
from otel_celery_launcher.tasks.instrumentor import (
    instrument_celery,
    received_messages,
    start_of_unrecorded_run,
)
from otel_celery_launcher.tasks.killed import KilledRuns
from otel_celery_launcher.tasks.plumbing import suppress_backends
from otel_celery_launcher.telemetry import log_correlation
from otel_celery_launcher.telemetry.application_providers import (
    ApplicationProviders,
    CollectorAddress,
)
from otel_celery_launcher.telemetry.instrumentations import Instrumented, instrument
from otel_celery_launcher.telemetry.logs import take_logs
from otel_celery_launcher.telemetry.metrics import MetricMaker, Metrics
from otel_celery_launcher.telemetry.removed_imports import advise_on_imports
from otel_celery_launcher.telemetry.resource import make_resource, slot_resource
from otel_celery_launcher.telemetry.route_maker import RouteMaker
from otel_celery_launcher.telemetry.suppression import (
    ROLES_WITH_CLIENT_ROOTS,
    SpanSuppressor,
)
from otel_celery_launcher.telemetry.tracer_provider import provide
from otel_celery_launcher.telemetry.traces import SpanFront

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from otel_celery_launcher.compat.celery_worker import EndedChild
    from otel_celery_launcher.ipc.channel import Channels
    from otel_celery_launcher.ipc.in_flight import InFlightRun
    from otel_celery_launcher.routes.route import Route
    from otel_celery_launcher.settings.settings import Settings


class FromMain(NamedTuple):
    """What a spawned pool child inherits from its main process.

    Attributes:
        counters: Descriptor of the counters.
        channels: To the exporter process, if there is one.
        page: Descriptor of the metrics, if there are any.
        resource: Attributes of the main process's resource.
    """

    counters: int
    channels: Channels | None
    page: int | None
    resource: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Telemetry:
    """What ``start`` made; ``launch/lifecycle.py`` moves it through a process's life."""

    settings: Settings
    suppressor: SpanSuppressor
    front: SpanFront
    route_maker: RouteMaker
    channels: Channels | None
    delivery_log: DeliveryLog
    counters: Counters
    main: ProcessClaim
    application_providers: ApplicationProviders
    provider: TracerProvider | None
    resource: Callable[[], Resource]  # of this process
    instrumented: Instrumented
    metrics: Metrics | None
    notes: list[str]
    killed_runs: KilledRuns = field(init=False)
    _consumer: Any = field(init=False, default=None)  # of the worker
    is_spawned: bool = False  # a pool child in an interpreter of its own

    def __post_init__(self) -> None:
        self.killed_runs = KilledRuns(
            self.counters, self.main, start_of_unrecorded_run, self._end_killed_run
        )
        if self.main.is_this():
            self.main_started()

    @property
    def route(self) -> Route:
        """How telemetry leaves this process."""
        return self.front.route

    def set_slot(self, slot: str) -> None:
        """Give this process its ``service.instance.id``; a recycled child gets its predecessor's."""
        if self.provider is not None:
            resource = slot_resource(
                self.provider.resource,
                self.settings,
                slot,
                pid=os.getpid(),
                parent_pid=os.getppid(),
            )
            providers.set_resource(self.provider, resource)

    def _end_killed_run(
        self, run: InFlightRun, ended: int, reason: Reason | None
    ) -> None:
        """End the span of a run whose process is dead (main process)."""
        if self.metrics is not None and not run.is_counted:
            error_type = (reason or {}).get("error.type", WORKER_LOST)
            with suppress(FrameError):  # of a child whose memory was damaged
                counted = read_counted_run(run.frame)
                self.metrics.tasks.end_killed_run(counted, ended, error_type)
        if self.provider is None:
            return
        resource = slot_resource(
            self.provider.resource,
            self.settings,
            str(run.slot),
            pid=run.pid,
            parent_pid=os.getpid(),
        )
        with suppress(FrameError):  # of a child whose memory was damaged
            providers.end_span(self.provider, killed_span(run, resource, ended, reason))

    def main_started(self) -> None:
        """Say whose metrics these are (main process, which stays)."""
        if self.metrics is not None:
            self.metrics.use_main(self.resource())

    def tell_of_broker(self, app: Any) -> None:
        """Let the exporter process ask the broker for its queues (main process)."""
        route = self.route
        if isinstance(route, HandoffRoute) and self.settings.metrics.has_queues:
            route.tell_of_broker(celery_worker.describe_broker(app))

    def watch_pool(self, app: Any) -> None:
        """Watch the worker's pool and its connection (main process)."""
        celery_worker.add_connection_watch(app, self._connection_changed)

    def _connection_changed(self, consumer: Any, is_connected: bool) -> None:
        self._consumer = consumer
        if is_connected:
            celery_worker.watch_children(consumer, self._child_ended)
        if self.metrics is not None:
            self.metrics.worker.connection_changed(consumer, is_connected=is_connected)

    def _child_ended(self, child: EndedChild) -> None:
        with guarded("a run of a killed process may be missing"):
            self.killed_runs.child_ended(child)
            if self.metrics is not None:
                self.metrics.worker.child_ended(child)

    def poll(self) -> None:
        """Do what is due (the main process's timer)."""
        if self._consumer is not None:  # its pool may be a new one
            celery_worker.watch_children(self._consumer, self._child_ended)
        self.killed_runs.poll()
        self.route.poll()
        if self.metrics is not None:
            self.metrics.worker.look(self.route.restarts)
            self.metrics.say_notice()

    def watch_during_tasks(self) -> None:
        """Watch the exporter process by a thread: a task keeps the timer from it (solo)."""
        if isinstance(self.route, HandoffRoute):
            self.route.watch_by_thread()

    def watch_until_the_end(self) -> None:
        """Watch the exporter process by a thread while the worker stops (main process)."""
        if isinstance(self.route, HandoffRoute):
            self.route.main_is_ending()

    def fall_back_to_inline(self, reason: str) -> None:
        """Export in each process, since no exporter process can be started.

        Below an injected tree that is not possible: what would leave is counted.
        """
        if inherited.TREE in os.environ:
            messages.log(
                f"no exporter process can be started ({reason}): nothing leaves this"
                " worker, and what would is counted as lost"
            )
            return
        self.front.route, _ = self.route_maker.inline()
        os.environ[inherited.MODE] = Mode.INLINE.value
        messages.log(
            f"no exporter process can be started ({reason}): each process of the worker"
            " exports its own spans"
        )

    def status(self) -> dict[str, Any]:
        """Return the worker's answer to ``inspect otel_status`` (main process)."""
        counters, settings = self.counters, self.settings
        spans = counters.of(TRACES)
        exports_otlp = settings.traces.sends_otlp
        return {
            "versions": {
                "otel-celery-launcher": __version__,
                **{name: version(name) for name in ("celery", "opentelemetry-sdk")},
            },
            "role": settings.role,
            "service_name": settings.service_name,
            "endpoint": printable_endpoint(settings.traces.endpoint)
            if exports_otlp
            else "",
            "exporters": list(settings.traces.exporters),
            "mode": "process" if isinstance(self.route, HandoffRoute) else "inline",
            "sampler": settings.sampler,
            "exported": spans.exported,
            "dropped": {"refused": spans.failed, "overflow": spans.dropped},
            "received": spans.received,
            "queued": spans.queued,
            "repeated": counters.rows[EXPORTER_ROW].repeated,
            "spool": printable(settings.spool.directory)
            if counters.rows[EXPORTER_ROW].spools
            else "",
            "left_out": counters.left_out,
            "last_error": counters.error,
            "is_failing": counters.is_failing,
            "received_messages": received_messages(),
            "exporter_restarts": self.route.restarts,
            "logs": self._log_status(),
            "metrics": {}
            if self.metrics is None
            else self.metrics.status(self.counters),
        }

    def advise_on_logs(self) -> None:
        """Say whose lines do not leave, once the application is imported (main process)."""
        with guarded("a line about loguru is missing"):
            if self.settings.exports_logs and is_loguru_apart():
                messages.log(
                    "loguru is imported, and its lines do not leave: it does not use"
                    " logging. Give it a sink that does (docs/logs.md)"
                )

    def _log_status(self) -> dict[str, int]:
        """Return what became of log records; empty if none leave."""
        if not self.settings.exports_logs:
            return {}
        figures = self.counters.of(LOGS)
        return {
            "received": figures.received,
            "exported": figures.exported,
            "refused": figures.failed,
            "dropped": figures.dropped,
            "queued": figures.queued,
        }

    def descriptors(self) -> list[int]:
        """Return our open descriptors, which code that closes all others must spare."""
        channels = [] if self.channels is None else self.channels.descriptors()
        route = self.route
        queue = route.descriptors() if isinstance(route, HandoffRoute) else []
        page = [] if self.metrics is None else self.metrics.page.descriptors()
        return [*channels, *queue, *page, *self.counters.descriptors()]

    def close_child(self) -> None:
        """Send everything there is, as the last act of a pool child."""
        self._close(self.settings.shutdown_seconds * self.route.child_share)

    def close_main(self) -> None:
        """Send everything there is, as the last act of the main process."""
        self.killed_runs.poll(is_end=True)
        self._close(self.settings.shutdown_seconds * (1 - self.route.child_share))
        self.delivery_log.report_end()
        if self.metrics is not None and self.main.is_this():
            self.metrics.say_notice()

    def _close(self, seconds: float) -> None:
        """Close our route, and at the same time flush the application's processors."""
        flushes = self.application_providers.flushes()
        if not flushes:
            self.route.close(seconds)
            return
        run_with_deadline(
            [lambda: self.route.close(seconds), *flushes],
            seconds + 0.25,  # ours ends by itself; an application's may not
        )


def start(settings: Settings, from_main: FromMain | None = None) -> Telemetry:
    """Set up telemetry in this interpreter; ``from_main`` is for a spawned child."""
    contexts.let_exceptions_through_detach()
    advise_on_imports()
    counters, main = _shared(from_main)
    delivery_log = _delivery_log(settings, counters, main)
    page = from_main.page if from_main else None
    metric_maker = MetricMaker(settings, counters, page)
    route_maker = RouteMaker(settings, counters, delivery_log, metric_maker)
    of_main = from_main.channels if from_main else None
    route, channels, notes = route_maker.make(of_main)
    front = SpanFront(route)
    application_providers = ApplicationProviders(front, _collector_address(settings))
    suppressor = _suppressor(settings, front)
    provider, provider_notes = provide(
        settings,
        application_providers,
        suppressor,
        from_main.resource if from_main else None,
    )
    resource = _resource(settings, provider)
    take_logs(settings, lambda: front.route, resource)
    metrics = _metrics(metric_maker, front)
    instrumented = _instrument(settings, application_providers, front, metrics)
    return Telemetry(
        settings=settings,
        suppressor=suppressor,
        front=front,
        route_maker=route_maker,
        channels=channels,
        delivery_log=delivery_log,
        counters=counters,
        main=main,
        application_providers=application_providers,
        provider=provider,
        resource=resource,
        instrumented=instrumented,
        metrics=metrics,
        notes=[*notes, *provider_notes, *metric_maker.notes, *instrumented.failed],
    )


def _instrument(
    settings: Settings,
    application_providers: ApplicationProviders,
    front: SpanFront,
    metrics: Metrics | None,
) -> Instrumented:
    """Turn on the instrumentations; what is said from here on is said at once."""
    runs_tasks = settings.role == "worker"
    suppress_backends(has_plumbing=settings.tasks.has_plumbing, runs_tasks=runs_tasks)
    _set_up_logging(settings)
    adopt = application_providers.adopt
    tasks = None if metrics is None else metrics.tasks
    instrumented = instrument(
        settings, partial(instrument_celery, settings.tasks, adopt, front, tasks)
    )
    application_providers.say_at_once()
    return instrumented


def _resource(
    settings: Settings, provider: TracerProvider | None
) -> Callable[[], Resource]:
    """Return what returns the resource of this process, which a pool child replaces."""
    if provider is None:  # no spans leave
        return cache(lambda: make_resource(settings))
    return lambda: provider.resource


def _metrics(maker: MetricMaker, front: SpanFront) -> Metrics | None:
    """Return the metrics of this process, connected to the route; None without any."""
    metrics = maker.make()
    if metrics is not None:
        metrics.provider.flush = lambda seconds: front.route.flush(seconds, [METRICS])
        metrics.writer.on_new_process(lambda: None, lambda: front.route.begin_metrics())
    return metrics


def _shared(from_main: FromMain | None) -> tuple[Counters, ProcessClaim]:
    """Return the counters, and which process is the main one."""
    main = ProcessClaim()
    if from_main is None:
        return Counters(), main
    main.release()
    return Counters(from_main.counters), main


def _delivery_log(
    settings: Settings, counters: Counters, main: ProcessClaim
) -> DeliveryLog:
    traces = settings.traces
    address = printable_endpoint(traces.endpoint)
    return DeliveryLog(
        TRACES,
        counters,
        main,
        address,
        traces.printable_path,
        settings.spool.directory,
        also=[LOGS] if settings.exports_logs else (),
    )


def _suppressor(settings: Settings, front: SpanFront) -> SpanSuppressor:
    return SpanSuppressor(
        client_roots=settings.client_roots,
        has_own_clients=settings.role in ROLES_WITH_CLIENT_ROOTS,
        has_duplicates=settings.has_duplicates,
        roots_per_second=settings.roots_per_second,
        on_left_out=lambda name: front.route.count_left_out(name),
        front=front,
    )


def _set_up_logging(settings: Settings) -> None:
    log_correlation.silence_propagators()
    log_correlation.add_ids(settings.service_name)
    if settings.log_correlation:
        log_correlation.write_ids(settings.service_name)
    if settings.shows_contexts:
        messages.show_contexts()


def _collector_address(settings: Settings) -> CollectorAddress | None:
    """Return where we send spans by OTLP, if we do."""
    traces = settings.traces
    if not traces.sends_otlp:
        return None
    headers = parse_env_headers(traces.headers, liberal=True)
    return CollectorAddress.read(traces.url, headers)
