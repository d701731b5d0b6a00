# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry, of its propagators and providers.

Others of its are in ``_compat_start.py``, ``_compat_lean.py``, ``_compat_spans.py`` and
``_compat_otlp.py``, Celery's in ``_compat_celery.py``. Each function has a test in
``tests/unit`` that fails when upstream changes what it leans on. Verified with Celery 5.3
to 5.7, billiard 4.1 to 4.3, OpenTelemetry 1.30 to 1.45.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan


class ForkableTracerProvider(TracerProvider):
    """A provider whose at-fork hook runs no detector.

    From SDK 1.44 the hook re-runs process-dependent resource detectors in a thread
    pool in each child and replaces ``service.instance.id``. The child's resource is
    set by ``set_resource`` instead; only the lock has to be new.
    """

    def __init__(self, *, attend: Callable[[Any, str], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._attend = attend  # called with each new tracer, and its scope
        # Only SDK 1.44 and later remember them, and they keep the resource they got.
        self.handed_out: weakref.WeakSet[Any] = weakref.WeakSet()

    def get_tracer(self, *arguments: Any, **named: Any) -> trace_api.Tracer:
        """Return a tracer, and remember it for ``set_resource``."""
        tracer = super().get_tracer(*arguments, **named)
        # The same tracer for the same scope: since SDK 1.44.
        if tracer not in self.handed_out:
            self.handed_out.add(tracer)
            if isinstance(tracer, Tracer):  # no stand-in for one that is turned off
                scope = named.get("instrumenting_module_name", *arguments[:1])
                self._attend(tracer, str(scope))
        return tracer

    def _handle_fork(self) -> None:
        self._tracers_lock = threading.Lock()


def set_resource(provider: TracerProvider, resource: Resource) -> None:
    """Give a provider and its tracers another resource (in a child, after its fork)."""
    provider._resource = resource
    tracers = getattr(provider, "_tracers", None)
    for tracer in getattr(provider, "handed_out", None) or dict(tracers or {}).values():
        tracer.resource = resource


def has_tracer_provider() -> bool:
    """Return whether a global tracer provider has been set in this process."""
    return trace_api._TRACER_PROVIDER is not None


def span_processors(provider: TracerProvider) -> tuple[SpanProcessor, ...]:
    """Return the processors of a provider."""
    return provider._active_span_processor._span_processors


def replace_span_processors(
    provider: TracerProvider, processors: tuple[SpanProcessor, ...]
) -> None:
    """Put other processors in the place of all of a provider's."""
    provider._active_span_processor._span_processors = processors


def intercept_added_processors(
    provider: TracerProvider, add: Callable[[SpanProcessor], None]
) -> None:
    """Call ``add`` for each processor that is added to this provider from now on."""
    provider._active_span_processor.add_span_processor = add  # type: ignore[assignment, method-assign]


def end_span(provider: TracerProvider, span: ReadableSpan) -> None:
    """Give a span that has ended to a provider's processors."""
    provider._active_span_processor.on_end(span)


def is_default(propagator: TextMapPropagator) -> bool:
    """Return whether a propagator is that of ``tracecontext,baggage``."""
    if propagator is not _Default.seen:
        inner = getattr(propagator, "_propagators", ())
        _Default.is_seen_default = type(propagator) is CompositePropagator and {
            type(each) for each in inner
        } == {TraceContextTextMapPropagator, W3CBaggagePropagator}
        _Default.seen = propagator
    return _Default.is_seen_default


def single_propagators(
    propagator: TextMapPropagator,
) -> tuple[TextMapPropagator, ...]:
    """Return the parts of a composite propagator; of any other, itself."""
    return tuple(getattr(propagator, "_propagators", (propagator,)))


class _Default:
    """The propagator that was asked about last."""

    seen: TextMapPropagator | None = None
    is_seen_default = False


def exporter_of(processor: SpanProcessor) -> object | None:
    """Return the exporter behind a batch or simple processor."""
    exporter = getattr(processor, "span_exporter", None)
    if exporter is not None:
        return exporter  # type: ignore[no-any-return]
    batch = getattr(processor, "_batch_processor", None)
    return getattr(batch, "_exporter", None)


def destination_of(exporter: object) -> tuple[str, dict[str, str]] | None:
    """Return endpoint and headers of an OTLP exporter, None for other exporters."""
    if type(exporter).__name__ != "OTLPSpanExporter":
        return None
    client = getattr(exporter, "_client", None)  # of the HTTP exporter since 1.4x
    headers: Any = getattr(exporter, "_headers", None) or getattr(
        client, "_headers", {}
    )
    pairs = headers.items() if hasattr(headers, "items") else headers
    return str(getattr(exporter, "_endpoint", "")), {
        key.lower(): value
        for key, value in pairs
        if key.lower() not in ("content-type", "user-agent")
    }


def take_over_celery_instrumentor(instance: CeleryInstrumentor) -> None:
    """Make ``CeleryInstrumentor()`` return our instance everywhere.

    ``BaseInstrumentor`` keeps one instance a class, so an application's own call of
    ``CeleryInstrumentor().instrument()`` would instrument a second time.
    """
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor._instance = instance


# What ``suppressing`` puts beside the key of the instrumentations.
_QUIET_KEY = context_api.create_key("otel-celery-quiet")


class _OutsideSpans:
    """True where no span is current."""

    def __bool__(self) -> bool:
        return not trace_api.get_current_span().get_span_context().is_valid


def suppressing(*, outside_spans_only: bool) -> Context:
    """Return the current context, in which instrumentations of clients make no spans.

    They ask for the truth of what is kept under the key (opentelemetry-instrumentation,
    ``utils.py``).

    Args:
        outside_spans_only: Whether they go on as ever while a span is current.
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
    """Return whether we have asked clients to make no spans in a context.

    Not whether the application has: its own spans stay when it suppresses others.

    Args:
        context: The context; None for the current one.
        is_below_a_span: Whether that has a span.
    """
    value = context_api.get_value(_QUIET_KEY, context)
    return not is_below_a_span if isinstance(value, _OutsideSpans) else bool(value)


def suppress_instrumentations_outside_spans() -> None:
    """Tell instrumentations of clients to begin no traces in this context from here on.

    Inside a span of the application they go on as ever.
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
