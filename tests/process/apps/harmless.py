"""The shop, whose tasks do to tracing whatever an application may do."""

from __future__ import annotations

import logging
import os
import sys

import redis
from celery import bootsteps
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from shop import app, noop, tracer

does = os.environ.get("DOES", "")


@app.task(name="harmless.instruments_again")
def instruments_again():
    with tracer.start_as_current_span("before"):
        pass
    CeleryInstrumentor().uninstrument()
    CeleryInstrumentor().instrument()
    with tracer.start_as_current_span("after"):
        pass


@app.task(name="harmless.double")
def double(number):
    return 2 * number


@app.task(name="harmless.sorry")
def sorry(task_id):
    """An errback that Celery publishes."""


@app.task(name="harmless.sorry_at_once")
def sorry_at_once(request, exc, traceback):
    """An errback that Celery calls where it finds out."""
    noop.delay()


@app.task(name="harmless.logs")
def logs():
    logging.getLogger("app").warning("a line of the task")


@app.task(name="harmless.hangs")
def hangs():
    client = redis.Redis.from_url(os.environ["SHOP_BACKEND"])
    client.lpush("hangs", os.getpid())
    client.blpop("never")


class Wrapping(trace.TracerProvider):
    """As Logfire's: a provider around the SDK's."""

    def __init__(self, provider):
        self.provider = provider

    def get_tracer(self, *arguments, **named):
        return self.provider.get_tracer(*arguments, **named)


def own_provider():
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "own"}))
    exporter = OTLPSpanExporter(endpoint=os.environ["OWN_ENDPOINT"], insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


if does == "provider":
    CeleryInstrumentor().instrument(tracer_provider=own_provider())
elif does == "wrapped provider":
    CeleryInstrumentor().instrument(tracer_provider=Wrapping(own_provider()))
elif does == "sets wrapped provider":
    trace.set_tracer_provider(Wrapping(own_provider()))
elif does == "links":
    CeleryInstrumentor().instrument(use_span_links=True)
elif does == "meter":
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        ConsoleMetricExporter,
        PeriodicExportingMetricReader,
    )

    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr))
    CeleryInstrumentor().instrument(meter_provider=MeterProvider([reader]))
elif does == "factory":
    logging.setLogRecordFactory(lambda *a, **k: logging.LogRecord(*a, **k))
elif does == "steps":

    class Step(bootsteps.ConsumerStep):
        def start(self, parent):
            print(f"outside: {is_instrumentation_enabled()}", flush=True)
            with tracer.start_as_current_span("own step"):
                print(f"inside: {is_instrumentation_enabled()}", flush=True)

    app.steps["consumer"].add(Step)
elif does == "batches":
    from celery_batches import Batches

    app.conf.worker_prefetch_multiplier = 20

    @app.task(name="harmless.batch", base=Batches, flush_every=3, flush_interval=5)
    def batch(requests):
        for request in requests:
            app.backend.mark_as_done(request.id, len(requests), request=request)
elif does == "delays":
    from kombu import Exchange, Queue

    exchange = Exchange("harmless", type="topic")
    app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.task_default_exchange_type = "topic"
    app.conf.task_default_exchange = "harmless"
    app.conf.task_default_queue = app.conf.task_default_routing_key = "harmless"
    app.conf.task_queues = [
        Queue(
            "harmless", exchange, "harmless", queue_arguments={"x-queue-type": "quorum"}
        )
    ]
elif does == "deduplicates":
    import signal

    from celery import signals

    app.conf.update(
        worker_deduplicate_successful_tasks=True,
        task_acks_late=True,
        task_default_queue="deduplicates",
    )

    @signals.task_postrun.connect
    def kill_main(**_):
        if "KILL" in os.environ:
            os.kill(os.getppid(), signal.SIGKILL)
