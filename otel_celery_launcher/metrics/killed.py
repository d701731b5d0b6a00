# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs whose process is gone: recorded by the main process, or by the exporter process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.metrics.builtin import RUN_DURATION
from otel_celery_launcher.metrics.instruments import record_seconds

if TYPE_CHECKING:
    from otel_celery_launcher.ipc.span_frames import CountedRun
    from otel_celery_launcher.metrics.writer import Writer


def record_killed_run(
    writer: Writer, run: CountedRun, ended: int, error_type: str, *, has_exponents: bool
) -> None:
    """Record a run that its process did not end, as failed.

    Args:
        writer: Of this process.
        run: What was recorded when it began.
        ended: Nanoseconds since the epoch.
        error_type: What is known of its end.
        has_exponents: Whether histograms have buckets that grow with the values.
    """
    attributes = {
        "celery.state": "FAILURE",
        "celery.task_name": run.task,
        "error.type": error_type,
        "messaging.destination.name": run.destination,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.system": run.system,
    }
    items = tuple((name, text) for name, text in attributes.items() if text)
    seconds = max(0, ended - run.start) / 1e9
    record_seconds(writer, RUN_DURATION, items, seconds, has_exponents=has_exponents)
