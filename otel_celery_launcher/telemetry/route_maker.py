# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the route that the mode of the settings asks for (``Settings.mode``).

Runs once in each interpreter, before the application is imported.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import CELERY_ROLES
from otel_celery_launcher.compat.monkey_patching import may_be_patched
from otel_celery_launcher.ipc.channel import Channels
from otel_celery_launcher.ipc.memory_limit import log_queue_bytes, queue_bytes
from otel_celery_launcher.routes.handoff import HandoffRoute
from otel_celery_launcher.routes.shared_queue import ExportedSignal, SharedQueue
from otel_celery_launcher.routes.supervisor import (
    ExportedMetrics,
    SpoolConfig,
    Supervisor,
)
from otel_celery_launcher.settings.settings import Mode
from otel_celery_launcher.signals import LOGS
from otel_celery_launcher.telemetry import logs, traces

if TYPE_CHECKING:
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.routes.delivery_log import DeliveryLog
    from otel_celery_launcher.routes.inline import InlineRoute, InlineSignal
    from otel_celery_launcher.routes.route import Route
    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.telemetry.metrics import MetricMaker


# The signals that leave.
OUTGOING = (traces.OUTGOING, logs.OUTGOING)


class RouteMaker:
    """Makes the routes of a process.

    Args:
        settings: Which route, and where each signal goes.
        counters: The shared page.
        delivery_log: Writes the log lines.
        metrics: Makes what exports metrics.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        delivery_log: DeliveryLog,
        metrics: MetricMaker,
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._counters = counters
        self._delivery_log = delivery_log

    def make(
        self, channels: Channels | None
    ) -> tuple[Route, Channels | None, list[str]]:
        """Return the route that the settings ask for.

        Args:
            channels: The main process's, in a spawned child; None elsewhere.

        Returns:
            The route, the channels if there are any, and lines to print.
        """
        if self._settings.mode is Mode.PROCESS:
            is_main = channels is None
            channels = channels or self._make_channels()
            return self.handoff(channels, is_main=is_main), channels, []
        inline, notes = self.inline()
        if self._settings.mode is not Mode.UNTIL_FORK:
            return inline, None, notes

        from otel_celery_launcher.routes.until_fork import UntilForkRoute

        def make_handoff() -> HandoffRoute:
            return self.handoff(self._make_channels(), is_main=True)

        return UntilForkRoute(inline, make_handoff), None, notes

    def _make_channels(self) -> Channels:
        return Channels.make(has_logs=self._settings.exports_logs)

    def handoff(self, channels: Channels, *, is_main: bool) -> HandoffRoute:
        """Return a route to the exporter process.

        Args:
            channels: To it.
            is_main: Whether this process supervises it.
        """
        settings = self._settings
        exported = self._metrics.exported()
        return HandoffRoute(
            [each for each in OUTGOING if settings.signals[each.signal].exporters],
            channels,
            self._counters,
            self._delivery_log,
            self._supervisor(channels, exported) if is_main else None,
            metrics=self._metrics.inline(holds=True, only_console=True)
            if is_main
            else None,
            are_metrics_taken=None if exported is None else exported.are_taken,
            may_start=settings.role not in CELERY_ROLES,
            has_timer=settings.role == "worker",
        )

    def _supervisor(
        self, channels: Channels, metrics: ExportedMetrics | None
    ) -> Supervisor:
        settings = self._settings
        exported = {
            each.signal: ExportedSignal(
                signal=each.signal,
                exporters=settings.signals[each.signal].exporters,
                redacts_exceptions=settings.redacts_exceptions,
            )
            for each in OUTGOING
        }
        size = queue_bytes()
        of_logs = exported.pop(LOGS)
        queues = [
            SharedQueue(0, channels.main, [*exported.values()], self._counters, size)
        ]
        if channels.logs is not None:
            size = log_queue_bytes(size)
            queues.append(
                SharedQueue(1, channels.logs, [of_logs], self._counters, size)
            )
        return Supervisor(
            queues,
            self._counters,
            settings.service_name,
            spool=self._spool_config(),
            metrics=metrics,
        )

    def _spool_config(self) -> SpoolConfig | None:
        settings = self._settings
        if not settings.spool.directory:
            return None
        unique = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        return SpoolConfig(
            directory=settings.spool.directory,
            size=settings.spool.size,
            name=f"{settings.service_name}-{unique}",
        )

    def inline(self) -> tuple[InlineRoute, list[str]]:
        """Return a route through this process's own exporters, and what to say."""
        # Not for a worker with an exporter process.
        from otel_celery_launcher.routes.inline import InlineRoute

        settings = self._settings
        # A monkey patch may follow, and gRPC and requests must not be imported before
        # it. Or a fork may follow, after which an exporter process exports.
        is_late = settings.mode is Mode.UNTIL_FORK and may_be_patched()
        signals, problems = self._inline_signals(is_late=is_late)
        route = InlineRoute(
            signals,
            self._counters,
            self._delivery_log,
            holds=settings.role in CELERY_ROLES,
            forks_safely=not any(
                "otlp_proto_grpc" in settings.signals[each.signal].exporters
                for each in OUTGOING
            ),
            metrics=self._metrics.inline(
                holds=settings.role in CELERY_ROLES,
                only_console=False,
                is_late=is_late,
            ),
        )
        return route, problems

    def _inline_signals(self, *, is_late: bool) -> tuple[list[InlineSignal], list[str]]:
        """Return each signal with its exporters, and what to say."""
        from otel_celery_launcher.delivery import exporters as makers
        from otel_celery_launcher.delivery.fork_gate import guard
        from otel_celery_launcher.routes.inline import InlineSignal

        load = makers.load_exporters_late if is_late else makers.load_exporters
        signals: list[InlineSignal] = []
        problems: list[str] = []
        for each in OUTGOING:
            of_signal = self._settings.signals[each.signal]
            exporters, failed = load(
                each.signal,
                of_signal.exporters,
                redacts_exceptions=self._settings.redacts_exceptions,
            )
            problems += failed
            signals.append(
                InlineSignal(
                    outgoing=each,
                    exporters=[guard(make) for make in exporters.values()],
                    pending_limit=of_signal.pending_limit,
                )
            )
        return signals, problems
