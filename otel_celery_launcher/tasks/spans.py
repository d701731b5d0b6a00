# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a task: the contrib instrumentor, with what it lacks for a launcher.

PRODUCER at publish, CONSUMER at run, parent and child. Runs in every process of the
worker, in Celery's signals.
"""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from otel_celery_launcher import _compat


class LauncherCeleryInstrumentor(CeleryInstrumentor):
    """Contrib's instrumentor; each task starts in a clean context.

    An application's ``CeleryInstrumentor().instrument()`` meets this instance and
    does nothing: each span comes once.
    """

    def instrument(self, **kwargs: Any) -> None:
        """Connect to Celery's signals; a second call does nothing and says nothing."""
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)

    def _trace_prerun(self, *args: Any, **kwargs: Any) -> None:
        task = kwargs.get("task")
        if task is None:
            return
        # What the task before left current would become this one's parent. An eager
        # task belongs to the code that called it.
        if not task.request.is_eager:
            context_api.attach(Context())
        super()._trace_prerun(*args, **kwargs)
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute("process.pid", os.getpid())


def instrument_celery() -> None:
    """Instrument Celery, in the place of any instrumentor that is already there."""
    present = CeleryInstrumentor()
    if isinstance(present, LauncherCeleryInstrumentor):
        return
    if present.is_instrumented_by_opentelemetry:
        present.uninstrument()
    LauncherCeleryInstrumentor._instance = None  # noqa: SLF001 - of our own class
    instrumentor = LauncherCeleryInstrumentor()
    _compat.take_over_celery_instrumentor(instrumentor)
    instrumentor.instrument(skip_dep_check=True)
