# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's contexts and propagators, and of Python's threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import propagate
from opentelemetry import trace as trace_api
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.propagators.textmap import TextMapPropagator

_runtime = context_api._RUNTIME_CONTEXT

# What ``opentelemetry.context`` does, without its three calls on the way to the variable.
current: Callable[[], Context] = _runtime.get_current
attach: Callable[[Context], object] = _runtime.attach
_reset: Callable[[Any], object] = _runtime.detach
if type(_runtime) is ContextVarsRuntimeContext:  # no other of OTEL_PYTHON_CONTEXT
    _variable = _runtime._current_context
    current, attach, _reset = _variable.get, _variable.set, _variable.reset

# Classes of spans: to ask an abstract class whether one is its subclass takes longer.
_known_spans: set[type] = {NonRecordingSpan}


def current_span() -> Span:
    """Return what ``trace.get_current_span`` returns."""
    span: Any = current().get(_SPAN_KEY)
    if type(span) not in _known_spans:
        if not isinstance(span, Span):
            return INVALID_SPAN
        _known_spans.add(type(span))
    return span  # type: ignore[no-any-return]


def has_baggage() -> bool:
    """Return whether the current context has any baggage."""
    return bool(current().get(_BAGGAGE_KEY))


def with_span(span: Span) -> Context:
    """Return the current context with a span; ``set_span_in_context`` returns it, too."""
    return Context({**current(), _SPAN_KEY: span})


def context_with_only(span: Span) -> Context:
    """Return a context that holds a span and nothing else."""
    return Context({_SPAN_KEY: span})


def detach(token: object) -> None:
    """Restore the context from before ``attach``; soft time limits come through.

    That of ``opentelemetry.context`` catches every ``Exception`` (API 1.45). Celery
    raises ``SoftTimeLimitExceeded`` at any bytecode, also inside it: the limit would be
    logged and forgotten. A token of another context raises ``ValueError``, a used one
    ``RuntimeError``; these stay caught.
    """
    try:
        _reset(token)
    except (ValueError, RuntimeError, TypeError):
        context_api.logger.exception("Failed to detach context")


# The propagator that was asked about last, and the answer.
_last_propagator: TextMapPropagator | None = None
_is_last_default = False


def is_default(propagator: TextMapPropagator) -> bool:
    """Return whether a propagator is that of ``tracecontext,baggage``."""
    inner = getattr(propagator, "_propagators", ())
    return type(propagator) is CompositePropagator and {
        type(each) for each in inner
    } == {TraceContextTextMapPropagator, W3CBaggagePropagator}


def has_default_propagators() -> bool:
    """Return whether the global propagator is that of ``tracecontext,baggage``."""
    global _last_propagator, _is_last_default
    present = propagate._HTTP_TEXT_FORMAT
    if present is not _last_propagator:
        _is_last_default = is_default(present)
        _last_propagator = present
    return _is_last_default


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
    """Stop ``opentelemetry.context.detach`` from swallowing soft time limits."""
    context_api.detach = detach


def has_other_threads() -> bool:
    """Return whether Python threads run beside this one.

    ``threading.active_count`` without its lock: asked at the end of each span, where a
    soft time limit may be raised at any bytecode.
    """
    return len(threading._active) > 1  # type: ignore[attr-defined]
