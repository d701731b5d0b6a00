# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a process: the page, the provider, and how they are exported.

Made once in each interpreter, before the application is imported. Without an exporter
of metrics nothing of this exists, and the metrics API does nothing, as under plain
Celery.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as metrics_api

from otel_celery_launcher import messages
from otel_celery_launcher.compat import meter_providers
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.metrics.instruments import Exemplars
from otel_celery_launcher.metrics.observed import Observers
from otel_celery_launcher.metrics.page import DamagedPageError, MetricPage
from otel_celery_launcher.metrics.provider import PageMeterProvider
from otel_celery_launcher.metrics.writer import Writer
from otel_celery_launcher.routes.supervisor import ExportedMetrics
from otel_celery_launcher.settings.advice import printable_endpoint
from otel_celery_launcher.signals import METRICS, TRACES
from otel_celery_launcher.tasks.instrumentor import OLDER_HISTOGRAM
from otel_celery_launcher.tasks.metrics import TaskMetrics
from otel_celery_launcher.tasks.worker_metrics import BeatMetrics, WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.metrics.sender import MetricSender
    from otel_celery_launcher.routes.inline_metrics import InlineMetrics
    from otel_celery_launcher.settings.settings import Settings

# An exporter that writes to standard output does so in the main process: that of the
# exporter process leads nowhere.
CONSOLE = "console"

COMPONENTS = {
    "otlp_proto_grpc": "otlp_grpc_{}_exporter",
    "otlp_proto_http": "otlp_http_{}_exporter",
}


@dataclass(slots=True)
class Metrics:
    """What the metrics of a process are made of.

    Attributes:
        page: Shared by all processes of the worker.
        writer: Writes this process's row.
        observers: Call callbacks of observable instruments.
        provider: Of the metrics API.
        tasks: Records runs and publishes.
        worker: Records the state of the worker, in its main process.
        beat: Records what beat does, in its process.
    """

    settings: Settings
    page: MetricPage
    writer: Writer
    observers: Observers
    provider: PageMeterProvider
    tasks: TaskMetrics
    worker: WorkerMetrics
    beat: BeatMetrics
    notes: list[str]
    _notice_said: str = ""

    def use_main(self, resource: Resource | None) -> None:
        """Say whose metrics these are (main process, after a detach)."""
        self.observers.use_main()
        if resource is not None:
            self.page.set_resource(encode_resource(resource))

    def say_notice(self) -> None:
        """Write what the exporting process has to say into the log, once."""
        notice = self.page.notice
        if notice != self._notice_said:
            self._notice_said = notice
            messages.log(notice)

    def status(self, counters: Counters) -> dict[str, Any]:
        """Return the part of ``otel_status`` about metrics (main process)."""
        from otel_celery_launcher.metrics.reader import PageReader

        reader = PageReader(self.page, self.settings.metrics.interval)
        reader.read(0, takes_exemplars=False)
        figures = counters.of(METRICS)
        return {
            "exporters": list(self.settings.signals[METRICS].exporters),
            "interval": self.settings.metrics.interval,
            "series": reader.count,
            "lost_series": self.page.lost,
            "exported_points": figures.exported,
            "failed_exports": figures.failed,
            "last_problem": self.page.notice,
        }


class MetricMaker:
    """Makes metrics, and what exports them.

    Args:
        settings: Of the process.
        counters: The shared page of delivery.
        page: Of the main process, in a spawned child; None makes a new one.
    """

    def __init__(
        self, settings: Settings, counters: Counters, page: int | None
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._is_child = page is not None
        self._exporters = settings.signals[METRICS].exporters
        self.notes: list[str] = []
        self.page: MetricPage | None = None
        if self._exporters:
            try:
                self.page = MetricPage(page)
            except (OSError, DamagedPageError) as exc:
                self.notes.append(
                    f"metrics are off: no memory can be had for them ({exc}); compare the"
                    " limits of this process: ulimit -a"
                )

    def make(self) -> Metrics | None:
        """Return the metrics of this process, and make their provider the global one."""
        page, settings = self.page, self._settings.metrics
        if page is None:
            return None
        exemplars = Exemplars(settings.exemplar_filter)
        writer = Writer(page, has_exemplars=exemplars.are_kept)
        observers = Observers(writer, settings.interval)
        if self._is_child:
            observers.use_no_main()
        provider = PageMeterProvider(
            writer, observers, exemplars, has_exponents=settings.has_exponents
        )
        tasks = TaskMetrics(
            writer,
            exemplars,
            has_exponents=settings.has_exponents,
            older=OLDER_HISTOGRAM if settings.has_older else None,
        )
        if meter_providers.has_meter_provider():
            self.notes.append(
                "a meter provider is in place and kept: the application's metrics go"
                " through it, otel-celery's own through otel-celery"
            )
        else:
            metrics_api.set_meter_provider(provider)
            meter_providers.let_application_replace(_note_replaced)
        return Metrics(
            self._settings,
            page,
            writer,
            observers,
            provider,
            tasks,
            WorkerMetrics(writer, tasks, settings.interval),
            BeatMetrics(writer, tasks),
            self.notes,
        )

    # What exports.

    def exported(self) -> ExportedMetrics | None:
        """Return what the exporter process exports; None for nothing."""
        names = [each for each in self._exporters if each != CONSOLE]
        if self.page is None or not names:
            return None
        settings = self._settings.metrics
        destination, path = self._texts()
        return ExportedMetrics(
            page=self.page,
            config={
                "exporters": names,
                "interval": settings.interval,
                "timeout": settings.timeout,
                "temporality": settings.temporality,
                "has_exponents": settings.has_exponents,
                "has_queues": settings.has_queues,
                "destination": destination,
                "path": path,
                "components": self._components(),
            },
        )

    def inline(
        self, *, holds: bool, only_console: bool, is_late: bool = False
    ) -> InlineMetrics | None:
        """Return what exports from a process of the worker itself; None for nothing.

        Args:
            holds: Whether it waits until the process is known to stay.
            only_console: Whether an exporter process exports the rest.
            is_late: Whether exporters are imported when they are needed: a monkey patch
                may come before. Else they are imported now: at the end of a program
                the SDK's modules can no longer be imported.
        """
        names = [
            each for each in self._exporters if each == CONSOLE or not only_console
        ]
        if self.page is None or self._is_child or not names:
            return None
        # Not for a worker with an exporter process; now, as they are needed at an end.
        from otel_celery_launcher.delivery import exporters
        from otel_celery_launcher.delivery.fork_gate import guard
        from otel_celery_launcher.metrics import health, sender  # noqa: F401
        from otel_celery_launcher.routes.inline_metrics import InlineMetrics

        load = exporters.load_exporters_late if is_late else exporters.load_exporters
        makers, problems = load(METRICS, names, redacts_exceptions=False)
        self.notes += problems
        if not is_late:
            from otel_celery_launcher.metrics import points  # noqa: F401
        return InlineMetrics(
            self.page,
            partial(
                self._sender,
                {name: guard(make) for name, make in makers.items()},
                has_health=not only_console,
            ),
            holds=holds,
            writes_here=names == [CONSOLE],
        )

    def _sender(
        self, makers: dict[str, Callable[[], PreparedExporter]], *, has_health: bool
    ) -> MetricSender:
        """Return what exports from a process of the worker itself.

        Args:
            makers: Of its exporters.
            has_health: Whether it writes what the exporting process knows; an exporter
                process beside it does.
        """
        from otel_celery_launcher.metrics.destination import MetricConfig, Texts
        from otel_celery_launcher.metrics.health import Health
        from otel_celery_launcher.metrics.sender import MetricSender

        page, settings = self.page, self._settings.metrics
        assert page is not None  # noqa: S101 - for the type checker
        figures = self._counters.rows[EXPORTER_ROW].of(METRICS)
        destination, path = self._texts()
        writer = Writer(page)
        health = Health(writer, self._counters, os.getpid(), *self._components())
        return MetricSender(
            page,
            MetricConfig(
                interval=settings.interval,
                temporality=settings.temporality,
                texts=Texts(destination=destination, path=path),
            ),
            makers,
            figures,
            health=health if has_health else lambda _: None,
            on_stopped=writer.release,
            say=page.note_notice,
            are_spans_failing=lambda: self._counters.is_failing,
        )

    def _components(self) -> list[str]:
        """Return ``otel.component.type`` of the first exporters of spans and metrics."""
        found = []
        for signal, item in ((TRACES, "span"), (METRICS, "metric")):
            name = next(iter(self._settings.signals[signal].exporters), "")
            found.append(COMPONENTS.get(name, name).format(item))
        return found

    def _texts(self) -> tuple[str, str]:
        """Return where metrics go, as it may be shown, and the URL path there."""
        signal = self._settings.signals[METRICS]
        destination = (
            printable_endpoint(signal.endpoint)
            if signal.sends_otlp
            else " and ".join(signal.exporters)
        )
        return destination, signal.printable_path


def _note_replaced(provider: object) -> None:
    owner = type(provider).__module__.partition(".")[0]
    messages.log(
        f"the application has a meter provider of its own ({owner}): its metrics go through"
        " that, with its views and readers. In pool children it loses what they count when"
        " they end; otel-celery's own metrics are not affected"
    )
