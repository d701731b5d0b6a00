"""The shop, with OpenTelemetry of its own: OWN says which."""

from __future__ import annotations

import os

from celery import signals
from opentelemetry import context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from shop import app, noop  # noqa: F401

own = os.environ["OWN"]


def own_provider(endpoint=None):
    provider = TracerProvider(resource=Resource.create({"service.name": "own"}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


if own == "instruments":
    CeleryInstrumentor().instrument()
    signals.worker_process_init.connect(
        lambda **_: CeleryInstrumentor().instrument(), weak=False
    )
elif own == "provider to the same endpoint":
    own_provider()
    propagate.set_global_textmap(
        CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    )
    CeleryInstrumentor().instrument()
elif own == "exporter added to the global provider":
    exporter = OTLPSpanExporter(insecure=True)
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporter))
elif own == "provider in each child":

    def set_up(**_):
        own_provider()
        CeleryInstrumentor().instrument()

    signals.worker_process_init.connect(set_up, weak=False)
elif own == "provider to another destination":
    signals.worker_process_init.connect(
        lambda **_: own_provider(os.environ["OWN_ENDPOINT"]), weak=False
    )
elif own == "processors":

    class Redacting(SpanProcessor):
        def on_end(self, span):
            span._attributes = {**span.attributes, "secret": "gone"}

    class Renaming(SpanProcessor):
        def on_end(self, span):
            span._name = f"renamed {span.name}"

    class Filtering(SpanProcessor):
        def on_end(self, span):
            if "step" in span.name:
                span._context = trace.SpanContext(
                    span.context.trace_id, span.context.span_id, is_remote=False
                )

    for each in (Redacting, Renaming, Filtering):
        trace.get_tracer_provider().add_span_processor(each())
elif own == "consumer span":
    tracer = trace.get_tracer("own")
    spans = {}

    @signals.task_prerun.connect(weak=False)
    def begin(task_id=None, task=None, **_):
        carrier = getattr(task.request, "otel_context", None) or {}
        if carrier:
            context.attach(propagate.extract(carrier))
        span = tracer.start_span("own run", kind=trace.SpanKind.CONSUMER)
        context.attach(trace.set_span_in_context(span))
        spans[task_id] = span

    @signals.task_postrun.connect(weak=False)
    @signals.task_failure.connect(weak=False)
    def end(task_id=None, **_):
        if task_id in spans:
            spans.pop(task_id).end()
elif own == "payload":

    @app.task(name="own.reads", bind=True)
    def reads(self, payload):
        carrier = payload["_otel"]
        with trace.get_tracer("own").start_as_current_span(
            "own run", propagate.extract(carrier), kind=trace.SpanKind.CONSUMER
        ):
            pass
elif own == "jaeger":
    from opentelemetry.exporter.jaeger.thrift import JaegerExporter  # noqa: F401
elif own == "sentry":
    import sentry_sdk

    sentry_sdk.init(
        dsn=os.environ["SENTRY"],
        traces_sample_rate=1.0,
        instrumenter="otel",
        auto_enabling_integrations=True,
    )
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor

    trace.get_tracer_provider().add_span_processor(SentrySpanProcessor())
