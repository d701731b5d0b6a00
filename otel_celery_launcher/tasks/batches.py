# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of celery-batches: one run works off many messages, and links to each publish.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ (batches). The
messages are the elements of the task's only argument (celery-batches 0.8 to 0.11).

Runs where the task runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Context as Request
from opentelemetry import trace
from opentelemetry.trace import Link

from otel_celery_launcher.tasks.propagation import parent_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context


def messages_of(task: Any, arguments: object) -> Sequence[Any]:
    """Return the messages of a batch; empty if a task does not work off batches.

    Args:
        task: The task.
        arguments: Its positional arguments.
    """
    module = sys.modules.get("celery_batches")
    if module is None or not isinstance(task, module.Batches):
        return ()
    if not isinstance(arguments, (list, tuple)) or not arguments:
        return ()
    return arguments[0] if isinstance(arguments[0], (list, tuple)) else ()


def publishes_of(messages: Sequence[Any]) -> tuple[Link, ...]:
    """Return a link to the publish of each message that names one."""
    contexts = (trace.get_current_span(_carried_by(each)) for each in messages)
    span_contexts = (span.get_span_context() for span in contexts)
    return tuple(Link(each) for each in span_contexts if each.is_valid)


def _carried_by(message: Any) -> Context:
    return parent_of(request_of(getattr(message, "request_dict", None)))


def request_of(headers: object) -> Request:
    """Return a message's headers as a request; what is not a header is left out."""
    fields = headers if isinstance(headers, Mapping) else {}
    return Request({key: value for key, value in fields.items() if type(key) is str})
