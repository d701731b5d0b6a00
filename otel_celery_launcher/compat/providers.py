# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's tracer providers and span processors."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan


# Most have fewer; some make one for each request.
TRACERS_KEPT = 1000


class ForkableTracerProvider(TracerProvider):
    """A provider whose at-fork hook runs no detector.

    From SDK 1.44 the hook re-runs process-dependent resource detectors in a thread
    pool in each child and replaces ``service.instance.id``. The child's resource is
    set by ``set_resource`` instead; only the lock has to be new.
    """

    def __init__(
        self, *, wrap_tracer: Callable[[Any, str], None], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._wrap_tracer = wrap_tracer  # called with each new tracer, and its scope
        # Only SDK 1.44 and later remember them, and they keep the resource they got.
        self.handed_out: weakref.WeakSet[Any] = weakref.WeakSet()
        self._known: dict[tuple[Any, ...], trace_api.Tracer] = {}

    def get_tracer(self, *arguments: Any, **named: Any) -> trace_api.Tracer:
        """Return a tracer, and remember it for ``set_resource``.

        The same one for the same arguments, as the SDK does since 1.44, but without its
        95 calls: applications ask for one at each span.
        """
        key = () if named else arguments
        try:
            tracer = self._known.get(key)
        except TypeError:  # attributes of a scope
            key, tracer = (), None
        if tracer is None:
            tracer = self._new_tracer(*arguments, **named)
            if key and len(self._known) < TRACERS_KEPT:
                self._known[key] = tracer
        return tracer

    def _new_tracer(self, *arguments: Any, **named: Any) -> trace_api.Tracer:
        tracer = super().get_tracer(*arguments, **named)
        # The same tracer for the same scope: since SDK 1.44.
        if tracer not in self.handed_out:
            self.handed_out.add(tracer)
            if isinstance(tracer, Tracer):  # no stand-in for one that is turned off
                scope = named.get("instrumenting_module_name", *arguments[:1])
                self._wrap_tracer(tracer, str(scope))
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
    """Put other processors instead of all of a provider's."""
    provider._active_span_processor._span_processors = processors


def intercept_added_processors(
    provider: TracerProvider, add: Callable[[SpanProcessor], None]
) -> None:
    """Call ``add`` for each processor that is added to this provider from now on."""
    provider._active_span_processor.add_span_processor = add  # type: ignore[assignment, method-assign]


def end_span(provider: TracerProvider, span: ReadableSpan) -> None:
    """Give a span that has ended to a provider's processors."""
    provider._active_span_processor.on_end(span)


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
