# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The span of a run that its process could not end.

Made by the worker's main process, or by the exporter process when that is dead, too.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.exporter.running import RunningTask

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
    """
    reason = dict(reason or {})
    text = reason.pop("text", "the process of the task is gone")
    error_type = reason.pop("error.type", WORKER_LOST)
    end = max(ended, task.start)
    flags = TraceFlags(task.flags)
    parent = (
        SpanContext(task.trace_id, task.parent_id, is_remote=True, trace_flags=flags)
        if task.parent_id
        else None
    )
    return ReadableSpan(
        name=f"run/{task.name}",
        context=SpanContext(
            task.trace_id, task.span_id, is_remote=False, trace_flags=flags
        ),
        parent=parent,
        resource=resource,
        attributes={
            "celery.action": "run",
            "celery.task_name": task.name,
            "celery.lost": True,
            "messaging.message.id": task.task_id,
            "process.pid": task.pid,
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
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.ERROR, text),
        start_time=task.start,
        end_time=end,
        instrumentation_scope=InstrumentationScope(
            "opentelemetry.instrumentation.celery",
            version("opentelemetry-instrumentation-celery"),
            "https://opentelemetry.io/schemas/1.11.0",
        ),
    )
