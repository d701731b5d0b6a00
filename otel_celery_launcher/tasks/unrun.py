# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks that never run: revoked, expired, rejected, unknown, undecodable.

Each leaves a short span in its producer's trace that says so. Runs in the worker's main
process, which decides these.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app.task import Context as Request
from kombu.exceptions import ContentDisallowed, DecodeError
from opentelemetry import trace
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher import _compat_celery
from otel_celery_launcher.tasks.carriers import parent_of
from otel_celery_launcher.tasks.run import Runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.tasks.attributes import Attributes


class UnrunTasks:
    """Makes the spans of tasks that never run.

    Args:
        tracer: Of the Celery instrumentation.
        attributes: Makes their attributes.
    """

    def __init__(self, tracer: trace.Tracer, attributes: Attributes) -> None:
        self._tracer = tracer
        self._attributes = attributes
        self._launcher = os.getpid()
        self._connected: list[Callable[[], object]] = []

    def connect(self) -> None:
        """Connect to what Celery says in the main process (launcher)."""
        for signal, receiver in (
            (signals.task_revoked, self._revoked),
            (signals.task_unknown, self._unknown),
            (signals.task_rejected, self._rejected),
            (signals.task_failure, self._failed),
        ):
            signal.connect(receiver, weak=False)
            self._connected.append(partial(signal.disconnect, receiver))
        self._connected.append(_compat_celery.watch_decode_errors(self._undecodable))

    def disconnect(self) -> None:
        """Undo ``connect``."""
        while self._connected:
            self._connected.pop()()

    def _revoked(
        self,
        sender: Any = None,
        request: Any = None,
        terminated: Any = None,
        expired: Any = None,
        **_: Any,
    ) -> None:
        if not terminated and request is not None:  # else it has begun: see lost.py
            what = "expired" if expired else "revoked"
            self._tell(what, sender.app, request, sender.name)

    def _unknown(
        self, sender: Any = None, message: Any = None, name: Any = None, **_: Any
    ) -> None:
        request = _request(message)
        error = "celery.exceptions.NotRegistered"
        self._tell("unknown", sender.app, request, str(name), error)

    def _rejected(
        self, sender: Any = None, message: Any = None, exc: Any = None, **_: Any
    ) -> None:
        error = "not a task's message" if exc is None else type(exc).__name__
        self._refused("rejected", sender, message, error)

    def _undecodable(self, consumer: Any, message: Any, exc: BaseException) -> None:
        self._refused("undecodable", consumer, message, type(exc).__name__)

    def _refused(self, what: str, consumer: Any, message: Any, error: str) -> None:
        """A message that is no task's, or does not say whose."""
        request = _request(message)
        name = str(getattr(request, "task", None) or "message")
        self._tell(what, consumer.app, request, name, error)

    def _failed(self, sender: Any = None, exception: Any = None, **_: Any) -> None:
        """A pool child could not decode the arguments: the task has not begun."""
        if not isinstance(exception, (DecodeError, ContentDisallowed)):
            return
        has_begun = Runs.span_of(sender.request) is not None
        if os.getpid() == self._launcher and not has_begun:
            error = type(exception).__name__
            self._tell("undecodable", sender.app, sender.request, sender.name, error)

    def _tell(
        self, what: str, app: Any, request: Any, name: str, error: str | None = None
    ) -> None:
        parent = parent_of(request)
        attributes = self._attributes.of_unrun(what, app, name, request, parent)
        if error:
            attributes["error.type"] = error
        span = self._tracer.start_span(
            f"{what}/{name}",
            context=parent,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()


def _request(message: Any) -> Request:
    """Return a message's headers as a request; whatever is no header is left out."""
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    return Request(
        {key: value for key, value in headers.items() if isinstance(key, str)}
    )
