# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of other libraries, here and nowhere else.

Each function has a test in ``tests/unit/test_compat.py`` that fails when upstream
changes what it leans on. Verified with Celery 5.3 to 5.7, billiard 4.1 to 4.3,
OpenTelemetry 1.30 to 1.45.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan


class ForkableTracerProvider(TracerProvider):
    """A provider whose at-fork hook runs no detector.

    From SDK 1.44 the hook re-runs process-dependent resource detectors in a thread
    pool in each child and replaces ``service.instance.id``. The child's resource is
    set by ``set_resource`` instead; only the lock has to be new.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Only SDK 1.44 and later remember them, and they keep the resource they got.
        self.handed_out: weakref.WeakSet[Any] = weakref.WeakSet()

    def get_tracer(self, *arguments: Any, **named: Any) -> trace_api.Tracer:
        """Return a tracer, and remember it for ``set_resource``."""
        tracer = super().get_tracer(*arguments, **named)
        self.handed_out.add(tracer)
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
    CeleryInstrumentor._instance = instance


def wrap_task_sender(around: Callable[..., Any]) -> Callable[[], None]:
    """Call ``around(app, send, producer, name, message, **options)`` for each publish.

    Every way of publishing ends in the function that ``AMQP._create_task_sender`` makes,
    once for each application (celery ``app/amqp.py``). Returns the undoing.
    """
    from celery.app.amqp import AMQP

    create = AMQP._create_task_sender

    def create_task_sender(amqp: Any) -> Callable[..., Any]:
        return partial(around, amqp.app, create(amqp))

    def unwrap() -> None:
        AMQP._create_task_sender = create

    AMQP._create_task_sender = create_task_sender
    return unwrap


def watch_decode_errors(
    told: Callable[[Any, Any, BaseException], None],
) -> Callable[[], None]:
    """Call ``told(consumer, message, exc)`` for messages a worker cannot decode.

    Celery has no signal for them (``worker/consumer/consumer.py``). Returns the undoing.
    """
    from celery.worker.consumer import Consumer

    decode_error = Consumer.on_decode_error

    def on_decode_error(consumer: Any, message: Any, exc: BaseException) -> None:
        decode_error(consumer, message, exc)
        told(consumer, message, exc)

    def undo() -> None:
        Consumer.on_decode_error = decode_error

    Consumer.on_decode_error = on_decode_error
    return undo


def suppress_instrumentations() -> None:
    """Tell instrumentations of clients to make no spans in this context from here on."""
    context_api.attach(
        context_api.set_value(context_api._SUPPRESS_INSTRUMENTATION_KEY, True)
    )


def with_prefix(formatter: Any, prefix: str) -> Any:
    """Return one of Celery's log formatters with a prefix before each message."""
    text = formatter._fmt
    if prefix not in text:
        text = text.replace("%(message)s", f"{prefix}%(message)s", 1)
    return type(formatter)(text, use_color=formatter.use_color)


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


class _InheritedDescriptor:
    """Pickled into billiard's preparation data: keeps a descriptor open in the child."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        from billiard.context import get_spawning_popen

        popen = get_spawning_popen()
        if popen is not None:
            popen.duplicate_for_child(self._descriptor)
        return int, (self._descriptor,)


def set_up_spawned_children(module: str, descriptors: Sequence[int]) -> None:
    """Make billiard's spawned children run ``module`` first and inherit descriptors.

    A spawned child runs the main module named in the preparation data before it
    unpickles the application (billiard ``spawn.py``); that module sets up telemetry.
    ``multiprocessing`` of the standard library is left alone: its children are the
    application's, and run the application's main module.
    """
    from billiard import spawn

    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepare(name)
        data.pop("init_main_from_path", None)
        data["init_main_from_name"] = module
        data["otel_celery"] = [_InheritedDescriptor(each) for each in descriptors]
        return data

    spawn.get_preparation_data = get_preparation_data


def keep_descriptors_open(descriptors: Callable[[], Sequence[int]]) -> None:
    """Make Celery's ``close_open_fds`` (``-B``, ``--detach``) spare our descriptors."""
    from celery import platforms

    close = platforms.close_open_fds

    def close_open_fds(keep: Sequence[Any] | None = None) -> None:
        close([*(keep or ()), *descriptors()])

    platforms.close_open_fds = close_open_fds


def pool_slot() -> int:
    """Return the slot of this pool child: a recycled child keeps its predecessor's."""
    from billiard.process import current_process

    index = getattr(current_process(), "index", None)
    return index if isinstance(index, int) else os.getpid()


def add_timer(app: Any, seconds: float, call: Callable[[], None]) -> None:
    """Call something every so many seconds in a worker's main process.

    A step of the consumer: Celery 5.3 clears the consumer's timer at each lost
    connection, and starts the steps anew after it.
    """
    from celery.bootsteps import StartStopStep

    class OtelCeleryTimer(StartStopStep):  # type: ignore[misc]
        entry: Any = None

        def start(self, parent: Any) -> None:
            self.entry = parent.timer.call_repeatedly(seconds, call)

        def stop(self, parent: Any) -> None:
            if self.entry is not None:
                self.entry.cancel()

    app.steps["consumer"].add(OtelCeleryTimer)


# Modules of the pools that run tasks in the main process.
_POOLS_WITHOUT_FORK = {
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.concurrency.gevent",
    "celery.concurrency.eventlet",
}


def never_forks(pool: type) -> bool:
    """Return whether a pool class, or what it derives from, runs tasks in main."""
    return any(each.__module__ in _POOLS_WITHOUT_FORK for each in pool.__mro__)


def has_other_threads() -> bool:
    """Return whether Python threads run beside this one.

    ``threading.active_count`` without its lock: asked at the end of each span, where a
    soft time limit may be raised at any bytecode.
    """
    return len(threading._active) > 1  # type: ignore[attr-defined]
