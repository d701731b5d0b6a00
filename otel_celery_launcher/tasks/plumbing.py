# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own calls of broker and result backend: which of them are spans.

Outside any span they make no spans: an application that polls results would make a
trace for each poll. With ``OTEL_CELERY_PLUMBING=false`` they never make spans. The
application's own calls keep their spans, even to the same Redis. Runs wherever Celery
publishes or calls its backend.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat import contexts, result_backends

if TYPE_CHECKING:
    from collections.abc import Callable


class SuppressingProducer:
    """A kombu producer whose publish makes no spans of clients; else the same.

    Args:
        producer: The producer.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        """Return what the producer has."""
        return getattr(self._producer, name)

    def publish(self, *arguments: Any, **named: Any) -> Any:
        """Publish a message."""
        token = contexts.attach(contexts.suppressing(outside_spans_only=False))
        try:
            return self._producer.publish(*arguments, **named)
        finally:
            contexts.detach(token)


def as_the_application(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return Celery's sender, unsuppressed: its signals run the application's code.

    A backend that publishes, as at the end of a chord, runs suppressed itself.
    """

    @wraps(send)
    def send_unsuppressed(*arguments: Any, **named: Any) -> Any:
        token = contexts.attach(contexts.unsuppressed())
        try:
            return send(*arguments, **named)
        finally:
            contexts.detach(token)

    return send_unsuppressed


def suppress_backends(*, has_plumbing: bool, runs_tasks: bool) -> None:
    """Suppress client spans in calls of result backends.

    Args:
        has_plumbing: Whether client spans below another span are kept.
        runs_tasks: Whether this process, or those that it forks, run tasks. A run's
            calls of its backend are below the run's span and need no change.
    """

    def quiet(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def quiet_call(*arguments: Any, **named: Any) -> Any:
            context = contexts.suppressing(outside_spans_only=has_plumbing)
            token = contexts.attach(context)
            try:
                return call(*arguments, **named)
            finally:
                contexts.detach(token)

        return quiet_call

    asks_only = has_plumbing and runs_tasks
    names = result_backends.ASKING_CALLS if asks_only else result_backends.BACKEND_CALLS
    result_backends.wrap_backend_calls(quiet, names)
