"""Providers and processors: private names that we lean on."""

from __future__ import annotations

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)

from otel_celery_launcher.compat import (
    providers,
)
from tests.support.spans import (
    RecordingProcessor,
)


def test_set_resource_reaches_tracers_already_handed_out() -> None:
    seen = RecordingProcessor()
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda *_: None, shutdown_on_exit=False
    )
    provider.add_span_processor(seen)
    tracer = provider.get_tracer("early")
    providers.set_resource(provider, Resource({"slot": "1"}))
    tracer.start_span("a").end()
    provider.get_tracer("late").start_span("b").end()
    assert [dict(each.attributes) for each in seen.resources] == [{"slot": "1"}] * 2


def test_a_tracer_is_found_again() -> None:
    """By its scope; attributes, which are no key, are part of it."""
    wrapped: list[str] = []
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda _, name: wrapped.append(name), shutdown_on_exit=False
    )
    tracer = provider.get_tracer("shop", "1.0")
    assert provider.get_tracer("shop", "1.0") is tracer
    other = provider.get_tracer("shop", "1.0", None, {"kind": "book"})
    assert other is not tracer
    assert provider.get_tracer("shop", "2.0") is not tracer
    assert wrapped == ["shop"] * 3


def test_fork_hook_runs_no_detector() -> None:
    if hasattr(TracerProvider, "_handle_fork"):  # SDK 1.44 and later
        provider = providers.ForkableTracerProvider(
            wrap_tracer=lambda *_: None, shutdown_on_exit=False
        )
        before = provider.resource
        provider._handle_fork()
        assert provider.resource is before
        assert provider._tracers_lock.acquire(blocking=False)


def test_has_tracer_provider_sees_the_global_one() -> None:
    assert hasattr(trace_api, "_TRACER_PROVIDER")
    assert not providers.has_tracer_provider()


def test_processors_of_a_provider_can_be_replaced_and_additions_intercepted() -> None:
    first, second, third = (
        RecordingProcessor(),
        RecordingProcessor(),
        RecordingProcessor(),
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(first)
    assert providers.span_processors(provider) == (first,)
    providers.replace_span_processors(provider, (second,))
    provider.get_tracer("t").start_span("a").end()
    assert (first.names, second.names) == ([], ["a"])
    added: list[SpanProcessor] = []
    providers.intercept_added_processors(provider, added.append)
    provider.add_span_processor(third)
    assert added == [third]
    assert providers.span_processors(provider) == (second,)


@pytest.mark.parametrize("make", [BatchSpanProcessor, SimpleSpanProcessor])
def test_destination_of_an_exporter_behind_a_processor(
    make: type[BatchSpanProcessor],
) -> None:
    exporter = OTLPSpanExporter(
        endpoint="http://collector:4317", insecure=True, headers={"k": "v"}
    )
    processor = make(exporter)
    assert providers.exporter_of(processor) is exporter
    assert providers.destination_of(exporter) == ("collector:4317", {"k": "v"})
    processor.shutdown()


def test_destination_of_http_and_other_exporters() -> None:
    http = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    endpoint = "http://collector:4318/v1/traces"
    exporter = http.OTLPSpanExporter(endpoint=endpoint, headers={"K": "v"})
    assert providers.destination_of(exporter) == (endpoint, {"k": "v"})
    assert providers.destination_of(ConsoleSpanExporter()) is None


def test_a_span_that_has_ended_can_be_given_to_a_provider() -> None:
    seen = RecordingProcessor()
    provider = TracerProvider()
    provider.add_span_processor(seen)
    with provider.get_tracer("x").start_as_current_span("one") as span:
        pass
    providers.end_span(provider, span)
    assert seen.names == ["one", "one"]
