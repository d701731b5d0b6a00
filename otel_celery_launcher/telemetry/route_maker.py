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
from otel_celery_launcher.delivery.exporters import load_exporters, load_exporters_late
from otel_celery_launcher.ipc.channel import Channel
from otel_celery_launcher.routes.handoff import HandoffRoute
from otel_celery_launcher.routes.inline import InlineRoute, InlineSignal
from otel_celery_launcher.routes.supervisor import (
    ExportedSignal,
    SpoolConfig,
    Supervisor,
)
from otel_celery_launcher.routes.until_fork import UntilForkRoute
from otel_celery_launcher.settings.settings import Mode
from otel_celery_launcher.telemetry import traces

if TYPE_CHECKING:
    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.routes.delivery_log import DeliveryLog
    from otel_celery_launcher.routes.route import Route
    from otel_celery_launcher.settings.settings import Settings


# The signals that leave.
OUTGOING = (traces.OUTGOING,)


class RouteMaker:
    """Makes the routes of a process.

    Args:
        settings: Which route, and where each signal goes.
        counters: The shared page.
        delivery_log: Writes the log lines.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        delivery_log: DeliveryLog,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._delivery_log = delivery_log

    def make(self, channel: Channel | None) -> tuple[Route, Channel | None, list[str]]:
        """Return the route that the settings ask for.

        Args:
            channel: The main process's channel, in a spawned child; None elsewhere.

        Returns:
            The route, the channel if there is one, and lines to print.
        """
        if self._settings.mode is Mode.PROCESS:
            is_main = channel is None
            channel = channel or Channel.make()
            return self.handoff(channel, is_main=is_main), channel, []
        inline, notes = self.inline()
        if self._settings.mode is not Mode.UNTIL_FORK:
            return inline, None, notes

        def make_handoff() -> HandoffRoute:
            return self.handoff(Channel.make(), is_main=True)

        return UntilForkRoute(inline, make_handoff), None, notes

    def handoff(self, channel: Channel, *, is_main: bool) -> HandoffRoute:
        """Return a route to the exporter process.

        Args:
            channel: To it.
            is_main: Whether this process supervises it.
        """
        settings = self._settings
        return HandoffRoute(
            OUTGOING,
            channel,
            self._counters,
            self._delivery_log,
            self._supervisor(channel) if is_main else None,
            may_start=settings.role not in CELERY_ROLES,
            has_timer=settings.role == "worker",
        )

    def _supervisor(self, channel: Channel) -> Supervisor:
        settings = self._settings
        exported = [
            ExportedSignal(
                signal=each.signal,
                exporters=settings.signals[each.signal].exporters,
                redacts_exceptions=settings.redacts_exceptions,
            )
            for each in OUTGOING
        ]
        return Supervisor(
            channel,
            self._counters,
            exported,
            settings.service_name,
            spool=self._spool_config(),
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
        settings = self._settings
        # A monkey patch may follow, and gRPC and requests must not be imported before
        # it. Or a fork may follow, after which an exporter process exports.
        is_late = settings.mode is Mode.UNTIL_FORK and may_be_patched()
        load = load_exporters_late if is_late else load_exporters
        signals: list[InlineSignal] = []
        problems: list[str] = []
        for each in OUTGOING:
            of_signal = settings.signals[each.signal]
            exporters, failed = load(
                each.signal,
                of_signal.exporters,
                redacts_exceptions=settings.redacts_exceptions,
            )
            problems += failed
            signals.append(
                InlineSignal(
                    outgoing=each,
                    exporters=list(exporters.values()),
                    pending_limit=of_signal.pending_limit,
                )
            )
        route = InlineRoute(
            signals,
            self._counters,
            self._delivery_log,
            holds=settings.role in CELERY_ROLES,
            forks_safely="otlp_proto_grpc" not in settings.traces.exporters,
        )
        return route, problems
