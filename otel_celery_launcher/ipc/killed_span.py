# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The span of a run that its process could not end.

Made by the worker's main process, or by the exporter process when that is dead, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Event
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.ipc.span_decoder import EndedSpan, read_span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_celery_launcher.ipc.in_flight import RunningTask

# ``text``, ``error.type`` and other attributes.
Reason = dict[str, str]

WORKER_LOST = "billiard.exceptions.WorkerLostError"


def lost_span(
    task: RunningTask, resource: Resource, ended: int, reason: Reason | None
) -> ReadableSpan:
    """Return the span of a run that its process did not end.

    Args:
        task: The run as noted.
        resource: Of the process.
        ended: When its process was seen to be dead; nanoseconds since the epoch.
        reason: What is known of its end.

    Raises:
        FrameError: The note cannot be read.
    """
    reason = dict(reason or {})
    text = reason.pop("text", "the process of the task is gone")
    error_type = reason.pop("error.type", WORKER_LOST)
    begun = read_span(resource, task.frame)
    end = max(ended, begun.start_time or ended)
    return EndedSpan(
        name=begun.name,
        context=begun.context,
        parent=begun.parent,
        resource=resource,
        attributes={
            **(begun.attributes or {}),
            "celery.lost": True,
            "error.type": error_type,
            **reason,
        },
        events=[
            Event(
                "exception",
                {"exception.type": error_type, "exception.message": text},
                end,
            )
        ],
        links=begun.links,
        kind=begun.kind,
        status=Status(StatusCode.ERROR, text),
        start_time=begun.start_time,
        end_time=end,
        instrumentation_scope=begun.instrumentation_scope,
    )
