"""Contexts, propagators and threads: private names that we lean on."""

from __future__ import annotations

import contextvars
import subprocess
import sys

import pytest
from opentelemetry import context as context_api
from opentelemetry import propagate
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_celery_launcher.compat import (
    contexts,
)


class LimitExceededError(Exception):
    pass


def test_detach_lets_exceptions_through_and_keeps_bad_tokens_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context_api, "detach", context_api.detach)
    contexts.let_exceptions_through_detach()
    foreign = contextvars.copy_context().run(context_api.attach, context_api.Context())
    context_api.detach(foreign)  # of another context: logged, as before

    def limit(_: object) -> None:
        raise LimitExceededError

    monkeypatch.setattr(contexts, "_reset", limit)
    with pytest.raises(LimitExceededError):
        context_api.detach(context_api.attach(context_api.Context()))


THREADS = """
import threading
from otel_celery_launcher.compat import contexts

def look(): print(contexts.has_other_threads())

look()
thread = threading.Thread(target=look)
thread.start()
thread.join()
look()
"""


def test_other_threads_are_seen() -> None:
    """In a process of its own: servers of other tests leave threads behind."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "False"]


def test_parts_of_a_composite_propagator() -> None:
    parts = (TraceContextTextMapPropagator(), W3CBaggagePropagator())
    assert contexts.single_propagators(CompositePropagator(parts)) == parts
    assert contexts.single_propagators(parts[0]) == parts[:1]


def test_instrumentations_of_clients_begin_no_traces_where_they_are_suppressed() -> (
    None
):
    def are_enabled() -> list[bool]:
        found = [is_instrumentation_enabled()]
        contexts.suppress_instrumentations_outside_spans()
        found.append(is_instrumentation_enabled())
        with TracerProvider().get_tracer("app").start_as_current_span("own"):
            found.append(is_instrumentation_enabled())
        return [*found, is_instrumentation_enabled()]

    assert contextvars.Context().run(are_enabled) == [True, False, True, False]


def test_the_default_propagator_is_known() -> None:
    parts = [TraceContextTextMapPropagator(), W3CBaggagePropagator()]
    assert contexts.is_default(propagate.get_global_textmap())
    assert contexts.is_default(CompositePropagator(parts))
    assert not contexts.is_default(CompositePropagator(parts[:1]))
    assert not contexts.is_default(parts[0])


def test_a_context_with_a_span_alone() -> None:
    span = trace_api.NonRecordingSpan(trace_api.SpanContext(1, 2, is_remote=True))
    made = trace_api.set_span_in_context(span, context_api.Context())
    assert contexts.context_with_only(span) == made
    assert type(contexts.context_with_only(span)) is type(made)


def test_the_global_propagator_is_looked_at_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert contexts.has_default_propagators()
    before = propagate.get_global_textmap()
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", before)  # put back at the end
    propagate.set_global_textmap(CompositePropagator([]))
    assert not contexts.has_default_propagators()
    propagate.set_global_textmap(before)
    assert contexts.has_default_propagators()
