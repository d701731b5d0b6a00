# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's web process: one request, traced as role ``producer``."""

from __future__ import annotations

import os
import sys

from otel_celery_launcher.command_line import read_command_line
from otel_celery_launcher.launch.celery_command import run_with_telemetry, set_up
from otel_celery_launcher.settings.settings import Settings


def _place_order() -> int:
    from otel_celery_launcher.demo.shop import place_order

    return place_order()


if __name__ == "__main__":
    command_line = read_command_line(["-A", "shop", "call"], {})
    settings = Settings.from_environ(os.environ, command_line)
    sys.exit(run_with_telemetry(set_up(settings), [], _place_order))
