# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own command line, run in this process with telemetry around it.

Imported only for commands that run or publish tasks: it imports the SDK.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import CELERY_ROLES, read_command_line
from otel_celery_launcher.compat import celery_private
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.ipc.channel import Channel
from otel_celery_launcher.launch.descriptor_limit import require_descriptors
from otel_celery_launcher.launch.health_file import HealthFile
from otel_celery_launcher.launch.lifecycle import Lifecycle
from otel_celery_launcher.launch.start_line import announce
from otel_celery_launcher.settings.settings import Settings
from otel_celery_launcher.telemetry.setup import start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.telemetry.setup import Telemetry

# What a spawned pool child inherits from the main process: descriptor of the counters,
# and descriptor and inode of the channel's write end.
INHERITED_VARIABLE = "_OTEL_CELERY_INHERITED"

# The main process's resource: no detector runs in a child, which has 4 s to come up.
RESOURCE_VARIABLE = "_OTEL_CELERY_RESOURCE"

# Long-running roles announce themselves; `call` in a cron job does not.
ANNOUNCED_ROLES = frozenset({"worker", "beat", "flower"})


def run_with_telemetry(
    telemetry: Telemetry, problems: Sequence[str], celery: Callable[[], int]
) -> int:
    """Run Celery's command line, then deliver what is left.

    Args:
        telemetry: What ``set_up`` made.
        problems: Lines about bad values, printed with the start line.
        celery: Celery's ``main``; leaves by ``SystemExit`` as a rule.

    Returns:
        Celery's exit status, where it returns.
    """
    settings = telemetry.settings
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
    """Set up telemetry and connect it to Celery, before the application is imported.

    Raises:
        OSError: The system refuses what is needed.
    """
    require_descriptors()
    # gRPC's core writes to descriptor 2 past all logging, a line for each failed
    # handshake. Its failures come back as errors of the call, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    telemetry = _Present.telemetry = start(settings)
    if settings.role in CELERY_ROLES:
        celery_private.keep_descriptors_open(telemetry.descriptors)
    Lifecycle(telemetry, partial(_prepare_spawned_children, telemetry)).connect()
    if settings.role == "worker" and settings.health_file:
        HealthFile(settings.health_file).connect()
    return telemetry


def wind_up(telemetry: Telemetry) -> None:
    """Deliver what is left; the exit status stays the program's."""
    with guarded("some spans may not have been sent"):
        telemetry.close_main()


def run_in_spawned_child() -> None:
    """Set up telemetry in a spawned pool child, before it imports the application."""
    with guarded("a pool child runs untraced"):  # else it is started for ever
        _set_up_spawned_child()


def _set_up_spawned_child() -> None:
    require_descriptors()
    settings = Settings.from_environ(
        os.environ, read_command_line(sys.argv[1:], os.environ)
    )
    counters, *pair = map(int, os.environ[INHERITED_VARIABLE].split(":"))
    channel = Channel(*pair) if settings.mode == "process" else None
    resource = json.loads(os.environ.get(RESOURCE_VARIABLE, "{}"))
    telemetry = start(settings, counters, channel, resource)
    telemetry.is_spawned = True
    # Embedded beat, spawned too, closes all descriptors that it does not know.
    celery_private.keep_descriptors_open(telemetry.descriptors)
    _Present.telemetry = telemetry
    Lifecycle(telemetry).connect()


def _prepare_spawned_children(telemetry: Telemetry) -> None:
    """Let spawned pool children set up telemetry (main process of a worker)."""
    inherited = [telemetry.counters.descriptor]
    numbers = list(inherited)
    if telemetry.channel is not None:
        inherited.append(telemetry.channel.write)
        numbers += [telemetry.channel.write, telemetry.channel.inode]
    if telemetry.provider is not None:
        attributes = dict(telemetry.provider.resource.attributes)
        os.environ[RESOURCE_VARIABLE] = json.dumps(attributes, default=str)
    os.environ[INHERITED_VARIABLE] = ":".join(map(str, numbers))
    celery_private.set_up_spawned_children(
        "otel_celery_launcher.launch.spawned_child", inherited
    )
