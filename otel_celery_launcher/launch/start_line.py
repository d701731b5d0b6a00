# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Lines at the start: one on the settings in effect, and one for each problem.

Runs in the launcher, and in a program under ``exec`` or ``setup()``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import signals

from otel_celery_launcher import __version__, messages
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.settings.advice import printable_endpoint
from otel_celery_launcher.settings.checks import safe_repr
from otel_celery_launcher.signals import LOGS, METRICS
from otel_celery_launcher.telemetry.suppression import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.telemetry.setup import Telemetry

EXPORTERS = {"otlp_proto_grpc": "OTLP/gRPC", "otlp_proto_http": "OTLP/HTTP"}


def announce(
    telemetry: Telemetry, problems: Sequence[str], *, has_start_line: bool
) -> None:
    """Say what is in force; nothing depends on it.

    Args:
        telemetry: What was set up.
        problems: Lines about bad values.
        has_start_line: Whether there is one; the other lines are there in any case.
    """
    with guarded("the start line is missing"):
        _announce(telemetry, problems, has_start_line=has_start_line)


def _announce(
    telemetry: Telemetry, problems: Sequence[str], *, has_start_line: bool
) -> None:
    """Print the start line, and one line for everything that is not as wished."""
    settings = telemetry.settings
    lines = [
        *problems,
        *settings.misspelt,
        *map(str, settings.notes),
        *telemetry.notes,
    ]
    if settings.unhandled:
        lines.append(f"set, but not supported yet: {', '.join(settings.unhandled)}")
    start_line = _text(telemetry)
    if has_start_line:
        messages.say(start_line, logging.INFO, _fields(telemetry))
    for line in lines:
        messages.say(line)

    def repeat_in_log(**_: Any) -> None:
        """Celery's log is set up; a detached process has no other place."""
        if not messages.is_heard():
            messages.log(start_line, logging.INFO)
            for line in lines:
                messages.log(line)

    if settings.role == "worker":
        signals.celeryd_after_setup.connect(repeat_in_log, weak=False)
    elif settings.role == "beat":
        signals.beat_init.connect(repeat_in_log, weak=False)


def _text(telemetry: Telemetry) -> str:
    """Return the start line: what is in force after every default and correction."""
    settings = telemetry.settings
    on = " ".join(telemetry.instrumented.on) or "nothing"
    surprising = [
        f"{each.name} ({each.reason})"
        for each in telemetry.instrumented.off
        if each.is_surprising
    ]
    off = f"; off: {', '.join(surprising)}" if surprising else ""
    if once := _counted_once(telemetry):
        off += f"; once: {' '.join(once)} below sqlalchemy"
    return (
        f"{__version__}, {settings.role}, service {safe_repr(settings.service_name)},"
        f" {_where(settings)}, sampler {settings.sampler}, {_metrics(settings)}{_logs(settings)};"
        f" instrumented: {on}{off}"
    )


def _counted_once(telemetry: Telemetry) -> list[str]:
    """Return the drivers whose spans are SQLAlchemy's where both would record."""
    on = telemetry.instrumented.on
    if telemetry.settings.has_duplicates or "sqlalchemy" not in on:
        return []
    return [name for name in on if name in DRIVERS]


def _where(settings: Settings) -> str:
    """Return where spans go, and how they leave."""
    if not settings.traces.exporters:
        return "no exporter"
    exporters = " and ".join(
        EXPORTERS.get(each, each) for each in settings.traces.exporters
    )
    target = (
        f" to {printable_endpoint(settings.traces.endpoint)}"
        if settings.traces.sends_otlp
        else ""
    )
    return f"{exporters}{target} {settings.mode.explained}"


def _metrics(settings: Settings) -> str:
    """Return where metrics go, and how often."""
    exporters = settings.signals[METRICS].exporters
    if not exporters:
        return "no metrics"
    names = [EXPORTERS.get(each, each) for each in exporters]
    return f"metrics by {' and '.join(names)} each {settings.metrics.interval:g} s"


def _logs(settings: Settings) -> str:
    """Return where log records go; empty if they stay."""
    names = [EXPORTERS.get(each, each) for each in settings.signals[LOGS].exporters]
    return f", logs by {' and '.join(names)}" if names else ""


def _fields(telemetry: Telemetry) -> dict[str, Any]:
    """Return what the start line says, and all that is off, for a program."""
    settings = telemetry.settings
    return {
        "version": __version__,
        "role": settings.role,
        "service_name": settings.service_name,
        "exporters": list(settings.traces.exporters),
        "endpoint": printable_endpoint(settings.traces.endpoint)
        if settings.traces.sends_otlp
        else "",
        "export": settings.mode.value,
        "sampler": settings.sampler,
        "metrics": list(settings.signals[METRICS].exporters),
        "metric_interval": settings.metrics.interval,
        "instrumented": telemetry.instrumented.on,
        "off": {each.name: each.reason for each in telemetry.instrumented.off},
    }
