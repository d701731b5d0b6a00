# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics in the exporter process: reads the worker's page, exports it, serves it.

One thread exports at each interval. Exporters that are asked (Prometheus) have a server
of their own, which is the SDK's.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat.meter_providers import serve_reader
from otel_celery_launcher.delivery.export_log import error_text
from otel_celery_launcher.exporter_process.queue_watch import QueueWatch
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.in_flight import WORKER_LOST
from otel_celery_launcher.ipc.span_decoder import read_counted_run
from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.metrics.destination import MetricConfig, Texts
from otel_celery_launcher.metrics.health import Health
from otel_celery_launcher.metrics.instruments import record_seconds
from otel_celery_launcher.metrics.killed import record_killed_run
from otel_celery_launcher.metrics.page import MetricPage
from otel_celery_launcher.metrics.sender import MetricSender
from otel_celery_launcher.metrics.writer import Writer
from otel_celery_launcher.signals import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_celery_launcher.delivery.answers import Answer
    from otel_celery_launcher.delivery.exporters import PreparedExporter
    from otel_celery_launcher.exporter_process.pipeline import Pipeline
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.ipc.in_flight import InFlightRun

# otel.component.type of exporters, by their entry point names
# (https://opentelemetry.io/docs/specs/semconv/registry/attributes/otel/#otel-component-type).
COMPONENTS = {
    "otlp_proto_grpc": "otlp_grpc_{}_exporter",
    "otlp_proto_http": "otlp_http_{}_exporter",
}


class MetricExport:
    """Exports the page of the worker.

    Args:
        config: ``config`` of ``telemetry/metrics.py``, and the page's descriptor.
        load: Imports the exporters; returns what makes each.
        counters: The shared page of delivery.
        parent: Process id of the worker's main process.
        import_path: Of the application.

    Raises:
        OSError: The page cannot be mapped.
        DamagedPageError: It is of another release.
    """

    def __init__(
        self,
        config: dict[str, Any],
        load: Callable[[], dict[str, Callable[[], PreparedExporter]]],
        counters: Counters,
        parent: int,
        import_path: list[str],
    ) -> None:
        self._page = page = MetricPage(config["page"])
        self._counters = counters
        self._writer = Writer(page)
        self._has_exponents = config["has_exponents"]
        self._readers: list[Any] = []
        makers = {
            name: partial(self._make, make, name, config["timeout"])
            for name, make in load().items()
        }
        pushed = {
            name: make
            for name, make in makers.items()
            if name.startswith("otlp_") or not self._keep_reader(page, make)
        }
        self._sender = self._make_sender(config, pushed, parent)
        for reader in self._readers:
            serve_reader(reader, self._sender.collect)
        self._queues: QueueWatch | None = None
        broker = _read_broker() if config["has_queues"] else None
        if broker is not None:
            self._queues = QueueWatch(
                self._writer, page, broker, import_path, config["interval"]
            )

    def _make_sender(
        self,
        config: dict[str, Any],
        makers: Mapping[str, Callable[[], PreparedExporter]],
        parent: int,
    ) -> MetricSender:
        counters = self._counters
        return MetricSender(
            self._page,
            MetricConfig(
                interval=config["interval"],
                temporality=config["temporality"],
                texts=Texts(destination=config["destination"], path=config["path"]),
            ),
            makers,
            counters.rows[EXPORTER_ROW].of(METRICS),
            health=Health(self._writer, counters, parent, *config["components"]),
            say=self._page.note_notice,
            are_spans_failing=lambda: counters.is_failing,
        )

    def _keep_reader(self, page: MetricPage, make: Callable[[], Any]) -> bool:
        """Make an exporter that is no OTLP; return whether it is one that is asked."""
        try:
            made = make()
        except Exception as exc:  # noqa: BLE001 - any exporter, which may open a port
            page.note_notice(
                f"an exporter of metrics cannot start ({error_text(exc)}): no metrics leave"
                " through it. Two workers on a host need different values of"
                " OTEL_EXPORTER_PROMETHEUS_PORT"
            )
            return True
        if made.reader is None:
            made.close()
            return False
        self._readers.append(made.reader)
        return True

    def _make(
        self, make: Callable[[], PreparedExporter], name: str, timeout: float
    ) -> PreparedExporter:
        exporter = make()
        exporter.limit_timeout(timeout)
        exporter.on_sent = partial(self._note_sent, component_of(name, "metric"))
        return exporter

    def _note_sent(self, component: str, seconds: float, answer: Answer) -> None:
        """Record how long an export took (its thread)."""
        items: tuple[tuple[str, str], ...] = (("otel.component.type", component),)
        if answer.error:
            items = (("error.type", answer.error.partition(":")[0]), *items)
        record_seconds(
            self._writer,
            builtin.EXPORT_DURATION,
            items,
            seconds,
            has_exponents=self._has_exponents,
        )

    def watch(self, pipelines: Sequence[Pipeline]) -> None:
        """Record how long the exports of spans take."""
        for pipeline in pipelines:
            component = component_of(pipeline.key[1], "span")
            pipeline.on_sent = partial(self._note_sent, component)

    def start(self) -> None:
        """Export from now on."""
        self._sender.start()
        if self._queues is not None:
            self._queues.start()

    def is_alive(self) -> bool:
        """Return whether its thread lives."""
        return self._sender.is_alive()

    def flush(self, on_done: Callable[[], object]) -> None:
        """Export now, and call something when that was tried."""
        self._sender.flush(on_done)

    def end_killed_run(self, run: InFlightRun, ended: int) -> None:
        """Record a run whose process died with the worker's main process."""
        if run.is_counted:
            return
        with suppress(FrameError):  # of a child whose memory was damaged
            record_killed_run(
                self._writer,
                read_counted_run(run.frame),
                ended,
                WORKER_LOST,
                has_exponents=self._has_exponents,
            )

    def stop(self, seconds: float, *, is_orphan: bool) -> None:
        """Export for the last time, unless the worker has asked for that already.

        Args:
            seconds: How long it may take.
            is_orphan: Whether the main process has ended without asking.
        """
        if self._queues is not None:
            self._queues.stop()
        self._sender.stop(seconds, exports=is_orphan or not self._sender.was_flushed)


def _read_broker() -> dict[str, Any] | None:
    """Return what the worker has written to our standard input about its broker."""
    try:
        broker = json.load(sys.stdin)
    except (OSError, ValueError):  # nothing
        return None
    return broker if isinstance(broker, dict) else None


def component_of(name: str, item: str) -> str:
    """Return ``otel.component.type`` of an exporter.

    Args:
        name: Its entry point name.
        item: ``span`` or ``metric``.
    """
    return COMPONENTS.get(name, name).format(item)
