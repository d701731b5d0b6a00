# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own command line, run in this process with telemetry around it.

Imported only for commands that run or publish tasks: it imports the SDK.
"""

from __future__ import annotations

import gc
import json
import os
from functools import partial
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import CELERY_ROLES
from otel_celery_launcher.compat import celery_descriptors, celery_private
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.launch.descriptor_limit import require_descriptors
from otel_celery_launcher.launch.health_file import HealthFile
from otel_celery_launcher.launch.lifecycle import Lifecycle
from otel_celery_launcher.launch.start_line import announce
from otel_celery_launcher.telemetry.setup import start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.telemetry.setup import Telemetry

# Long-running roles announce themselves; `call` in a cron job does not.
ANNOUNCED_ROLES = frozenset({"worker", "beat", "flower"})


def run_with_telemetry(
    telemetry: Telemetry, problems: Sequence[str], celery: Callable[[], int]
) -> int:
    """Run Celery's command line, then deliver what is left.

    Args:
        telemetry: What ``set_up`` made.
        problems: Lines about bad values, printed with the start line.
        celery: Celery's ``main``; usually leaves by ``SystemExit``.

    Returns:
        Celery's exit status, where it returns.
    """
    settings = telemetry.settings
    announce(telemetry, problems, has_start_line=settings.role in ANNOUNCED_ROLES)
    if settings.role == "worker":
        freeze_gc()
    launcher = os.getpid()
    try:
        return celery()
    finally:
        # Not in a process that Celery forked (a detached beat is the one that stays).
        if os.getpid() == launcher or settings.role == "beat":
            shut_down(telemetry)


def freeze_gc() -> None:
    """Exclude all existing objects from garbage collection.

    Called before the application is imported: Celery's modules, OpenTelemetry's and ours.
    A collection in a pool child writes into each object that it walks, and so makes the
    child its own copy of their pages (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    gc.freeze()


# The telemetry of this interpreter, also of the process that it was forked from.
_present: Telemetry | None = None


def is_set_up() -> bool:
    """Return whether telemetry was set up in this interpreter."""
    return _present is not None


def set_up(settings: Settings) -> Telemetry:
    """Set up telemetry and connect it to Celery, before the application is imported.

    Raises:
        OSError: The system refuses what is needed.
    """
    require_descriptors()
    # gRPC's core writes to descriptor 2 past all logging, a line for each failed
    # handshake. Its failures come back as errors of the call, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    telemetry = start(settings)
    note_set_up(telemetry)
    if settings.role in CELERY_ROLES:
        celery_descriptors.keep_descriptors_open(telemetry.descriptors)
    Lifecycle(telemetry, partial(_prepare_spawned_children, telemetry)).connect()
    if settings.role == "worker" and settings.health_file:
        HealthFile(settings.health_file, telemetry.main).connect()
    return telemetry


def shut_down(telemetry: Telemetry) -> None:
    """Deliver what is left; the exit status stays the program's."""
    with guarded("some spans may not have been sent"):
        telemetry.close_main()


def note_set_up(telemetry: Telemetry) -> None:
    """Note what was set up in this interpreter (``spawned_child.py``)."""
    global _present
    _present = telemetry


def _prepare_spawned_children(telemetry: Telemetry) -> None:
    """Let spawned pool children set up telemetry (main process of a worker)."""
    os.environ.pop(inherited.MODE, None)  # of a worker above, or before a re-exec
    descriptors = [telemetry.counters.descriptor]
    page = [] if telemetry.metrics is None else telemetry.metrics.page.descriptors()
    numbers = [*descriptors, *(page or [-1])]
    descriptors += page
    for channel in telemetry.channels or ():
        descriptors.append(channel.write)
        numbers += [channel.write, channel.inode]
    if telemetry.provider is not None:
        attributes = dict(telemetry.provider.resource.attributes)
        os.environ[inherited.RESOURCE] = json.dumps(attributes, default=str)
    os.environ[inherited.SPAWN] = ":".join(map(str, numbers))
    celery_private.set_up_spawned_children(
        "otel_celery_launcher.launch.spawned_child", descriptors
    )
