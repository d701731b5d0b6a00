# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Discarded tasks, which never run: revoked, expired, rejected, unknown, undecodable, deduplicated.

Each gets a short span with the reason in its producer's trace. Runs in the worker's
main process, which discards tasks, inside Celery's loop: an exception would end the
worker. So this module catches everything that reading a message can raise.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import current_app, signals
from kombu.exceptions import ContentDisallowed, DecodeError
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.compat import celery_private
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.tasks.batches import request_of
from otel_celery_launcher.tasks.errors import text_of
from otel_celery_launcher.tasks.propagation import parent_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.tasks.attributes import Attributes
    from otel_celery_launcher.tasks.metrics import TaskMetrics
    from otel_celery_launcher.tasks.run import Runs


class DiscardedTasks:
    """Makes the spans of tasks that never run.

    Args:
        tracer: The tracer of the Celery instrumentation.
        attributes: Makes their attributes.
        runs: Knows which tasks have started.
        metrics: Counts them; None without metrics.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        attributes: Attributes,
        runs: Runs,
        metrics: TaskMetrics | None = None,
    ) -> None:
        self._metrics = metrics
        self.change(tracer, attributes)
        self._runs = runs
        self._launcher = os.getpid()
        self._connected: list[Callable[[], object]] = []

    def change(self, tracer: trace.Tracer, attributes: Attributes) -> None:
        """Use another tracer and other attributes from now on."""
        self._tracer = tracer
        self._attributes = attributes

    def connect(self) -> None:
        """Connect to what Celery says in the main process (launcher)."""
        for signal, receiver in (
            (signals.task_revoked, self._revoked),
            (signals.task_unknown, self._unknown),
            (signals.task_rejected, self._rejected),
            (signals.task_failure, self._failed),
            (signals.worker_init, self._worker_init),
            (signals.worker_process_init, self._child_init),
        ):
            signal.connect(receiver, weak=False)
            self._connected.append(partial(signal.disconnect, receiver))

    def disconnect(self) -> None:
        """Undo ``connect``."""
        while self._connected:
            self._connected.pop()()

    def _worker_init(self, sender: Any = None, **_: Any) -> None:
        self._launcher = os.getpid()
        celery_private.watch_decode_errors(sender.app, self._undecodable)
        if sender.app.conf.worker_deduplicate_successful_tasks:
            celery_private.watch_skipped_runs_of_main(sender.app, self._deduplicated)

    def _child_init(self, **_: Any) -> None:
        """Pool child: its tasks have been prepared."""
        if current_app.conf.worker_deduplicate_successful_tasks:
            celery_private.watch_skipped_runs(current_app, self._deduplicated)

    def _deduplicated(self, task: Any, headers: object) -> None:
        """A task that had succeeded was delivered again, and Celery skipped it."""
        if self._connected:
            self._record("deduplicated", task.app, request_of(headers), task.name)

    def _revoked(
        self,
        sender: Any = None,
        request: Any = None,
        terminated: Any = None,
        expired: Any = None,
        **_: Any,
    ) -> None:
        if not terminated and request is not None:  # else it has begun: see killed.py
            what = "expired" if expired else "revoked"
            self._record(what, sender.app, request, sender.name)

    def _unknown(
        self, sender: Any = None, message: Any = None, name: Any = None, **_: Any
    ) -> None:
        request = request_of(message.headers)
        error = "celery.exceptions.NotRegistered"
        self._record("unknown", sender.app, request, text_of(name), error)

    def _rejected(
        self, sender: Any = None, message: Any = None, exc: Any = None, **_: Any
    ) -> None:
        error = "not a task's message" if exc is None else type(exc).__name__
        self._record_rejected("rejected", sender, message, error)

    def _undecodable(self, consumer: Any, message: Any, exc: BaseException) -> None:
        if self._connected:
            self._record_rejected("undecodable", consumer, message, type(exc).__name__)

    def _record_rejected(
        self, what: str, consumer: Any, message: Any, error: str
    ) -> None:
        """A message that is no task's, or does not say whose."""
        request = request_of(message.headers)
        task = getattr(request, "task", None)
        name = "message" if task is None else text_of(task)
        self._record(what, consumer.app, request, name, error)

    def _failed(self, sender: Any = None, exception: Any = None, **_: Any) -> None:
        """A pool child could not decode the arguments: the task has not begun."""
        if not isinstance(exception, (DecodeError, ContentDisallowed)):
            return
        has_begun = self._runs.span_of(sender.request) is not None
        if os.getpid() == self._launcher and not has_begun:
            error = type(exception).__name__
            self._record("undecodable", sender.app, sender.request, sender.name, error)

    def _record(
        self, what: str, app: Any, request: Any, name: str, error: str | None = None
    ) -> None:
        if self._metrics is not None:
            with suppress(*MALFORMED_ERRORS):  # of a message that nobody has thought of
                self._metrics.count_unrun(app, name, what)
        try:
            parent = parent_of(request)
            attributes = self._attributes.of_discarded(what, app, name, request, parent)
        except MALFORMED_ERRORS:  # something nobody has thought of: the span without it
            parent, attributes = Context(), {"celery.action": what}
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
