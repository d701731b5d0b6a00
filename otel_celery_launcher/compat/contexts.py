# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's contexts and propagators, and of Python's threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator


# The propagator that was asked about last, and the answer.
_last_propagator: tuple[TextMapPropagator | None, bool] = (None, False)


def is_default(propagator: TextMapPropagator) -> bool:
    """Return whether a propagator is that of ``tracecontext,baggage``."""
    global _last_propagator
    last, is_it = _last_propagator
    if propagator is not last:
        inner = getattr(propagator, "_propagators", ())
        is_it = type(propagator) is CompositePropagator and {
            type(each) for each in inner
        } == {TraceContextTextMapPropagator, W3CBaggagePropagator}
        _last_propagator = (propagator, is_it)
    return is_it


def single_propagators(
    propagator: TextMapPropagator,
) -> tuple[TextMapPropagator, ...]:
    """Return the parts of a composite propagator; of any other, itself."""
    return tuple(getattr(propagator, "_propagators", (propagator,)))


# Our own key, which ``suppressing`` sets in addition to that of the instrumentations.
_QUIET_KEY = context_api.create_key("otel-celery-quiet")


class _OutsideSpans:
    """True where no span is current."""

    def __bool__(self) -> bool:
        return not trace_api.get_current_span().get_span_context().is_valid


def suppressing(*, outside_spans_only: bool) -> Context:
    """Return the current context, in which instrumentations of clients make no spans.

    They test whether the value under the key is true (opentelemetry-instrumentation,
    ``utils.py``).

    Args:
        outside_spans_only: Whether they still make spans while a span is current.
    """
    value = _OutsideSpans() if outside_spans_only else True
    context = context_api.set_value(_QUIET_KEY, value)
    return context_api.set_value(
        context_api._SUPPRESS_INSTRUMENTATION_KEY, value, context
    )


def unsuppressed() -> Context:
    """Return the current context without what ``suppressing`` has put there."""
    context = context_api.set_value(_QUIET_KEY, None)
    return context_api.set_value(
        context_api._SUPPRESS_INSTRUMENTATION_KEY, None, context
    )


def is_suppressed(context: Context | None, *, is_below_a_span: bool) -> bool:
    """Return whether ``suppressing`` suppresses client spans in a context.

    An application's own suppression does not count: its spans stay in that case.

    Args:
        context: The context; None for the current one.
        is_below_a_span: Whether the context contains a span.
    """
    value = context_api.get_value(_QUIET_KEY, context)
    return not is_below_a_span if isinstance(value, _OutsideSpans) else bool(value)


def suppress_instrumentations_outside_spans() -> None:
    """Suppress client spans in this context from now on, so that they start no traces.

    Inside a span of the application, clients still make spans.
    """
    context_api.attach(suppressing(outside_spans_only=True))


def let_exceptions_through_detach() -> None:
    """Stop ``context.detach`` from swallowing soft time limits.

    It catches every ``Exception`` (opentelemetry-api 1.45, ``context/__init__.py``).
    Celery raises ``SoftTimeLimitExceeded`` at any bytecode, also inside it: the limit
    would be logged and forgotten. A token of another context raises ``ValueError``, a
    used one ``RuntimeError``; these stay caught.
    """
    runtime = context_api._RUNTIME_CONTEXT
    log = context_api.logger

    def detach(token: object) -> None:
        try:
            runtime.detach(token)  # type: ignore[arg-type]
        except (ValueError, RuntimeError, TypeError):
            log.exception("Failed to detach context")

    context_api.detach = detach


def has_other_threads() -> bool:
    """Return whether Python threads run beside this one.

    ``threading.active_count`` without its lock: asked at the end of each span, where a
    soft time limit may be raised at any bytecode.
    """
    return len(threading._active) > 1  # type: ignore[attr-defined]
