# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The main module of spawned pool children: billiard runs it before the application.

Named in billiard's preparation data by ``celery_private.set_up_spawned_children``; billiard
runs it under the name ``__mp_main__`` (billiard ``spawn.py``, ``_fixup_main_from_name``).
"""

from __future__ import annotations

import json
import os
import sys

from otel_celery_launcher.command_line import read_command_line
from otel_celery_launcher.compat import celery_descriptors
from otel_celery_launcher.errors import guarded
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.ipc.channel import Channel, Channels
from otel_celery_launcher.launch.celery_command import note_set_up
from otel_celery_launcher.launch.descriptor_limit import require_descriptors
from otel_celery_launcher.launch.lifecycle import Lifecycle
from otel_celery_launcher.settings.settings import Mode, Settings
from otel_celery_launcher.telemetry.setup import FromMain, start


def run_in_spawned_child() -> None:
    """Set up telemetry in a spawned pool child, before it imports the application."""
    with guarded("a pool child runs untraced"):  # else it is started for ever
        _set_up()


def _set_up() -> None:
    require_descriptors()
    settings = Settings.from_environ(
        os.environ,
        read_command_line(sys.argv[1:], os.environ),
        os.environ.get(inherited.MODE),
    )
    counters, page, *pairs = map(int, os.environ[inherited.SPAWN].split(":"))
    channels = [Channel(*each) for each in zip(pairs[::2], pairs[1::2], strict=True)]
    from_main = FromMain(
        counters=counters,
        channels=Channels(*channels) if settings.mode is Mode.PROCESS else None,
        page=page if page >= 0 else None,
        resource=json.loads(os.environ.get(inherited.RESOURCE, "{}")),
    )
    telemetry = start(settings, from_main)
    telemetry.is_spawned = True
    # Embedded beat, spawned too, closes all descriptors that it does not know.
    celery_descriptors.keep_descriptors_open(telemetry.descriptors)
    note_set_up(telemetry)
    Lifecycle(telemetry).connect()


if __name__ == "__mp_main__":
    run_in_spawned_child()
