# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own command line, run in this process with telemetry around it.

Imported only for commands that run or publish tasks: it imports the SDK.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from celery import signals

from otel_celery_launcher import __version__, _compat_celery, messages
from otel_celery_launcher.advice import shown_endpoint
from otel_celery_launcher.handoff.channel import Channel
from otel_celery_launcher.health import HealthFile
from otel_celery_launcher.lifecycle import Lifecycle
from otel_celery_launcher.roles import read_command_line
from otel_celery_launcher.settings import Settings
from otel_celery_launcher.status import answer_with
from otel_celery_launcher.telemetry import HOLDING_ROLES, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.telemetry import Telemetry

# What a spawned pool child inherits from the main process: descriptor of the counters,
# and descriptor and inode of the channel's write end.
INHERITED_VARIABLE = "_OTEL_CELERY_INHERITED"

# The main process's resource: no detector runs in a child, which has 4 s to come up.
RESOURCE_VARIABLE = "_OTEL_CELERY_RESOURCE"

# Long-running roles announce themselves; `call` in a cron job does not.
ANNOUNCED_ROLES = frozenset({"worker", "beat", "flower"})


def run_with_telemetry(
    settings: Settings, problems: Sequence[str], celery: Callable[[], int]
) -> int:
    """Set up telemetry, run Celery's command line, deliver what is left.

    Args:
        settings: Read from the corrected environment.
        problems: Lines about bad values, printed with the start line.
        celery: Celery's ``main``; leaves by ``SystemExit`` as a rule.

    Returns:
        Celery's exit status, where it returns.
    """
    try:
        telemetry = set_up(settings)
    except Exception:  # noqa: BLE001 - the boundary: a bug of ours stops no worker
        report_bug("tracing could not be set up: Celery runs without")
        return celery()
    announce(telemetry, problems, has_start_line=settings.role in ANNOUNCED_ROLES)
    if settings.role == "worker":
        set_aside()
    launcher = os.getpid()
    try:
        return celery()
    finally:
        # Not in a process that Celery forked (a detached beat is the one that stays).
        if os.getpid() == launcher or settings.role == "beat":
            wind_up(telemetry)


def set_aside() -> None:
    """Tell the garbage collector that what is here by now stays.

    Called before the application is imported: Celery's modules, OpenTelemetry's and ours.
    A collection in a pool child writes into each object that it walks, and so makes the
    child its own copy of their pages (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    gc.freeze()


class _Present:
    """What was set up in this interpreter, and in what it was forked from."""

    telemetry: Telemetry | None = None


def is_set_up() -> bool:
    """Return whether telemetry was set up in this interpreter."""
    return _Present.telemetry is not None


def set_up(settings: Settings) -> Telemetry:
    """Set up telemetry and connect it to Celery, before the application is imported."""
    # gRPC's core writes to descriptor 2 past all logging, a line for each failed
    # handshake. Its failures come back as errors of the call, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    telemetry = _Present.telemetry = start(settings)
    if settings.role in HOLDING_ROLES:
        _prepare_spawned_children(telemetry)
    Lifecycle(telemetry).connect()
    if settings.role == "worker":
        answer_with(telemetry.status)
        if settings.health_file:
            HealthFile(settings.health_file).connect()
    return telemetry


def wind_up(telemetry: Telemetry) -> None:
    """Deliver what is left; the exit status stays the program's."""
    try:
        telemetry.close_main()
    except Exception:  # noqa: BLE001 - the boundary: a bug of ours stops no worker
        report_bug("some spans may not have been sent")


def report_bug(consequence: str) -> None:
    """Say where a bug of ours is; called while its exception is handled."""
    where = traceback.format_exc().strip().splitlines()
    messages.say(
        f"a bug in otel-celery {__version__}: {consequence}. Please report it:"
        f" {where[-1]} ({where[-3].strip() if len(where) > 2 else ''})"
    )


def run_in_spawned_child() -> None:
    """Set up telemetry in a spawned pool child, before it imports the application."""
    settings = Settings.from_environ(
        os.environ, read_command_line(sys.argv[1:], os.environ)
    )
    counters, *pair = map(int, os.environ[INHERITED_VARIABLE].split(":"))
    channel = Channel(*pair) if settings.mode == "process" else None
    resource = json.loads(os.environ.get(RESOURCE_VARIABLE, "{}"))
    telemetry = start(settings, counters, channel, resource)
    telemetry.is_spawned = True
    # Embedded beat, spawned too, closes all descriptors that it does not know.
    _compat_celery.keep_descriptors_open(telemetry.descriptors)
    _Present.telemetry = telemetry
    Lifecycle(telemetry).connect()


def _prepare_spawned_children(telemetry: Telemetry) -> None:
    inherited = [telemetry.counters.descriptor]
    numbers = list(inherited)
    if telemetry.channel is not None:
        inherited.append(telemetry.channel.write)
        numbers += [telemetry.channel.write, telemetry.channel.inode]
    _compat_celery.keep_descriptors_open(telemetry.descriptors)
    if telemetry.provider is not None:
        attributes = dict(telemetry.provider.resource.attributes)
        os.environ[RESOURCE_VARIABLE] = json.dumps(attributes, default=str)
    os.environ[INHERITED_VARIABLE] = ":".join(map(str, numbers))
    _compat_celery.set_up_spawned_children("otel_celery_launcher.spawned", inherited)


def announce(
    telemetry: Telemetry, problems: Sequence[str], *, has_start_line: bool
) -> None:
    """Print the start line, and one line for everything that is not as wished.

    Args:
        telemetry: What was set up.
        problems: Lines about bad values.
        has_start_line: Whether there is one; the other lines are there in any case.
    """
    settings = telemetry.settings
    lines = [*problems, *settings.notes, *telemetry.notes]
    if settings.unhandled:
        lines.append(f"set but not handled: {', '.join(settings.unhandled)}")
    start_line = _start_line(telemetry)
    if has_start_line:
        messages.say(start_line)
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


def _start_line(telemetry: Telemetry) -> str:
    settings = telemetry.settings
    where = " and ".join(settings.exporters) or "no exporter"
    if settings.sends_otlp:
        where += f" to {shown_endpoint(settings.endpoint)}"
    on = " ".join(telemetry.instrumented) or "nothing"
    off = f"; off: {', '.join(telemetry.off)}" if telemetry.off else ""
    return (
        f"{__version__}, {settings.role}, service {settings.service_name!r}, {where},"
        f" sampler {settings.sampler}, {settings.mode} export; instrumented: {on}{off}"
    )
