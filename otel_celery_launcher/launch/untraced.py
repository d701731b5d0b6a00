# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is left to do where tracing is off (``OTEL_SDK_DISABLED``). Runs in the launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def keep_health_file(role: str | None, environ: Mapping[str, str]) -> None:
    """Let probes succeed, so that tracing can be turned off in a hurry.

    Imports nothing of Celery's unless a worker has a health file.
    """
    path = environ.get("OTEL_CELERY_HEALTH_FILE")
    if path and role == "worker":
        from otel_celery_launcher.ipc.process_claim import ProcessClaim
        from otel_celery_launcher.launch.health_file import HealthFile

        HealthFile(path, ProcessClaim()).connect()
