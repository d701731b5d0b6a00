"""Private names of other libraries: each test fails loudly when upstream changes."""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import billiard.spawn
import pytest
from billiard.context import get_spawning_popen, set_spawning_popen
from celery import Celery
from celery.app.log import TaskFormatter
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.beat import Scheduler
from celery.concurrency import get_implementation
from celery.utils.log import ColorFormatter
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks
from opentelemetry import context as context_api
from opentelemetry import propagate
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_celery_launcher.compat import (
    celery_instrumentor,
    celery_private,
    contexts,
    lazy_span,
    providers,
    span_fields,
    span_starter,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Seen(SpanProcessor):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.resources: list[Resource] = []

    def on_end(self, span: object) -> None:
        self.names.append(span.name)  # type: ignore[attr-defined]
        self.resources.append(span.resource)  # type: ignore[attr-defined]


def test_set_resource_reaches_tracers_already_handed_out() -> None:
    seen = Seen()
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda *_: None, shutdown_on_exit=False
    )
    provider.add_span_processor(seen)
    tracer = provider.get_tracer("early")
    providers.set_resource(provider, Resource({"slot": "1"}))
    tracer.start_span("a").end()
    provider.get_tracer("late").start_span("b").end()
    assert [dict(each.attributes) for each in seen.resources] == [{"slot": "1"}] * 2


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
    first, second, third = Seen(), Seen(), Seen()
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


def test_celery_instrumentor_is_one_instance_that_can_be_ours() -> None:
    before = CeleryInstrumentor._instance
    ours = object.__new__(CeleryInstrumentor)
    celery_instrumentor.take_over_celery_instrumentor(ours)
    assert CeleryInstrumentor() is ours
    CeleryInstrumentor._instance = before


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

    runtime = context_api._RUNTIME_CONTEXT
    monkeypatch.setattr(type(runtime), "detach", lambda _, token: limit(token))
    with pytest.raises(LimitExceededError):
        context_api.detach(context_api.attach(context_api.Context()))


def test_spawned_children_inherit_a_descriptor() -> None:
    kept: list[int] = []

    class Popen:
        def duplicate_for_child(self, descriptor: int) -> int:
            kept.append(descriptor)
            return descriptor

    assert get_spawning_popen() is None
    set_spawning_popen(Popen())
    try:
        make, arguments = celery_private._InheritedDescriptor(7).__reduce__()
    finally:
        set_spawning_popen(None)
    assert (make(*arguments), kept) == (7, [7])
    assert "get_preparation_data(process_obj" in inspect.getsource(
        __import__("billiard.popen_spawn_posix", fromlist=["Popen"])
    )
    assert "init_main_from_name" in inspect.getsource(billiard.spawn)


@pytest.mark.parametrize(
    ("pool", "never"),
    [("prefork", False), ("solo", True), ("threads", True), ("gevent", True)],
)
def test_pools_that_never_fork(pool: str, never: bool) -> None:
    assert celery_private.never_forks(get_implementation(pool)) is never
    assert celery_private.never_forks(pool) is never


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


def record_sends() -> tuple[list[str], Callable[[], None]]:
    """Return the tasks that are sent from here on, and what ends that."""
    calls: list[str] = []

    def around(
        app: Any, send: Any, producer: Any, name: str, message: Any, **_: Any
    ) -> Any:
        calls.append(name)
        return send(producer, name, message)

    return calls, celery_private.wrap_task_sender(around)


def test_the_task_sender_can_be_wrapped() -> None:
    calls, undo = record_sends()
    try:
        Celery(broker="memory://", set_as_current=False).send_task("there")
    finally:
        undo()
    Celery(broker="memory://", set_as_current=False).send_task("not there")
    assert calls == ["there"]


def test_applications_that_have_published_get_another_task_sender() -> None:
    """And get their own back; one that the application has put there stays."""
    app = Celery(broker="memory://", set_as_current=False)
    other = Celery(broker="memory://", set_as_current=False)
    own = other.amqp.send_task_message = lambda *_, **__: None
    app.send_task("before")
    calls, undo = record_sends()
    app.send_task("there")
    undo()
    app.send_task("not there")
    assert calls == ["there"]
    assert other.amqp.send_task_message is own


def test_decode_errors_of_a_consumer_can_be_watched() -> None:
    errors: list[tuple[Any, ...]] = []
    logged: list[tuple[Any, ...]] = []
    app = Celery(set_as_current=False)
    celery_private.watch_decode_errors(app, lambda *what: errors.append(what))
    (step,) = app.steps["consumer"]
    consumer = SimpleNamespace(on_decode_error=lambda *what: logged.append(what))
    step(consumer)
    error = ValueError()
    consumer.on_decode_error("message", error)
    assert logged == [("message", error)]
    assert errors == [(consumer, "message", error)]
    for user in (Consumer.create_task_handler, Tasks.start):
        assert ".on_decode_error" in inspect.getsource(user)


def test_headers_of_ours_stay_out_of_a_requests_headers() -> None:
    assert Context({"x": 1, "otel_celery_mine": 2}).headers["otel_celery_mine"] == 2
    celery_private.keep_out_of_headers("otel_celery_mine")
    try:
        assert Context({"otel_celery_mine": 2}).headers is None
        assert Context({"x": 1, "otel_celery_mine": 2}).headers == {"x": 1}
    finally:
        del Context.otel_celery_mine


def test_skipped_runs_can_be_watched() -> None:
    """The tracer of a task that was not run again returns neither result nor time."""
    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(worker_deduplicate_successful_tasks=True, task_acks_late=True)
    ran: list[int] = []

    def once() -> None:
        ran.append(1)

    class Array:
        """As numpy's: whether two are equal has no truth value."""

        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    task = app.task(name="once")(once)
    app.finalize()
    app.backend.persistent = True
    run = build_tracer("once", task, app=app)

    @functools.wraps(run)
    def own(*arguments: Any) -> Any:  # as sentry-sdk does
        return run(*arguments)

    task.__trace__ = own
    skipped: list[tuple[Any, object]] = []
    celery_private.watch_skipped_runs(app, lambda *what: skipped.append(what))
    celery_private.watch_skipped_runs(app, lambda *what: skipped.append(what))

    def deliver(*, redelivered: bool) -> dict[str, Any]:
        request = {"id": "1", "delivery_info": {"redelivered": redelivered}}
        task.__trace__("1", (), {}, request)
        return request

    deliver(redelivered=False)
    assert skipped == []
    request = deliver(redelivered=True)
    assert ran == [1]
    assert skipped == [(task, request)]
    task.__trace__ = lambda *_: (Array(), None, 1.0, "")
    celery_private.watch_skipped_runs(app, lambda *what: skipped.append(what))
    deliver(redelivered=True)
    assert len(skipped) == 1


def test_the_entry_that_beat_publishes_is_known() -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("entry", default="")
    seen: list[str] = []
    before = Scheduler.apply_async

    @functools.wraps(before)
    def own(*arguments: Any, **named: Any) -> Any:
        return before(*arguments, **named)

    Scheduler.apply_async = own
    celery_private.watch_schedule_entries(current)
    celery_private.watch_schedule_entries(current)
    try:
        app = Celery(broker="memory://", set_as_current=False)

        def tick() -> None:
            pass

        task = app.task(name="tick")(tick)
        task.apply_async = lambda *_, **__: seen.append(current.get())
        scheduler = Scheduler(app)
        scheduler.apply_async(Scheduler.Entry("every", "tick", app=app, schedule=1.0))
        assert (seen, current.get()) == (["every"], "")
    finally:
        Scheduler.apply_async = before


def test_killed_runs_fail_inside_their_context() -> None:
    """And an application's own change of Celery's method stays in force."""
    from celery.worker.request import Request

    before = Request.on_failure, Request.on_timeout
    seen: list[object] = []

    @functools.wraps(before[0])
    def own(request: Any, *_: Any) -> None:
        seen.append(context_api.get_value("killed"))

    Request.on_failure = own
    context = context_api.set_value("killed", 1, context_api.Context())
    try:
        for _ in range(2):
            celery_private.fail_requests_inside(
                lambda task_id: context if task_id == "a" else None
            )
        Request.on_failure(SimpleNamespace(id="a"), None)
        Request.on_failure(SimpleNamespace(id="b"), None)
        assert seen == [1, None]
        assert "mark_as_failure" in inspect.getsource(before[0])
        assert "mark_as_failure" in inspect.getsource(before[1])
    finally:
        Request.on_failure, Request.on_timeout = before


ALONE = """
import sys
from otel_celery_launcher.compat import celery_private
celery_private.import_instrumentor_alone()
from opentelemetry.instrumentation.celery import CeleryInstrumentor
print([name for name in sys.modules if name.startswith("celery.worker")])
from celery.worker.request import Request
print(Request.__module__)
"""


def test_the_instrumentor_can_be_imported_without_the_worker() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "celery.worker.request"]


def test_parts_of_a_composite_propagator() -> None:
    parts = (TraceContextTextMapPropagator(), W3CBaggagePropagator())
    assert contexts.single_propagators(CompositePropagator(parts)) == parts
    assert contexts.single_propagators(parts[0]) == parts[:1]


def test_a_span_that_has_ended_can_be_given_to_a_provider() -> None:
    seen = Seen()
    provider = TracerProvider()
    provider.add_span_processor(seen)
    with provider.get_tracer("x").start_as_current_span("one") as span:
        pass
    providers.end_span(provider, span)
    assert seen.names == ["one", "one"]


def test_celerys_formatters_can_have_a_prefix() -> None:
    for kind in (ColorFormatter, TaskFormatter):
        formatter = celery_private.with_prefix(
            kind("%(levelname)s %(message)s"), "<%(name)s> "
        )
        assert type(formatter) is kind
        record = logging.makeLogRecord(
            {"levelname": "INFO", "msg": "text", "name": "n"}
        )
        assert formatter.format(record).endswith("INFO <n> text")
        again = celery_private.with_prefix(formatter, "<%(name)s> ")
        assert again.format(record).count("<n>") == 1


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


class Watching(SpanProcessor):
    def __init__(self) -> None:
        self.attributes: list[dict[str, object]] = []

    def on_start(self, span: Span, parent_context: object = None) -> None:
        self.attributes.append(dict(span.attributes or {}))


class Curious(Sampler):
    """Hands on what it was asked about."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def should_sample(self, *arguments: Any, **named: Any) -> SamplingResult:
        attributes = named.get("attributes") or arguments[4]
        self.seen.append(attributes)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "curious"


def start(provider: TracerProvider) -> Span:
    starter = span_starter.SpanStarter(provider.get_tracer("t"))
    kind = trace_api.SpanKind.INTERNAL
    span = starter.start("a", context_api.Context(), kind, lambda: {"a": 1, "b": "x"})
    assert isinstance(span, Span)
    return span


@pytest.mark.parametrize("limits", [None, SpanLimits(max_span_attributes=1)])
def test_attributes_are_there_from_the_start(limits: SpanLimits | None) -> None:
    provider = TracerProvider(shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(Seen())
    span = start(provider)
    assert dict(span.attributes or {}) == ({"b": "x"} if limits else {"a": 1, "b": "x"})
    span.set_attribute("b", "y")
    assert (span.attributes or {})["b"] == "y"


def test_who_looks_at_the_start_sees_the_attributes() -> None:
    """A sampler that is not the SDK's own, and an application's processor."""
    sampler, processor = Curious(), Watching()
    start(TracerProvider(shutdown_on_exit=False, sampler=ParentBased(sampler)))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Seen())
    provider.add_span_processor(processor)
    start(provider)
    assert sampler.seen == processor.attributes == [{"a": 1, "b": "x"}]


def test_an_unsampled_span_needs_no_attributes() -> None:
    provider = TracerProvider(shutdown_on_exit=False, sampler=ALWAYS_OFF)
    provider.add_span_processor(Seen())
    starter = span_starter.SpanStarter(provider.get_tracer("t"))
    span = starter.start("a", None, trace_api.SpanKind.INTERNAL, lambda: 1 / 0)  # type: ignore[return-value]
    assert not span.is_recording()


def test_contents_are_those_of_the_properties() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    link = trace_api.Link(trace_api.SpanContext(1, 2, is_remote=True))
    span = provider.get_tracer("t").start_span("a", attributes={"k": 1}, links=[link])
    span.add_event("e")
    span.set_status(trace_api.StatusCode.ERROR, "why")
    span.end()
    assert isinstance(span, Span)
    *found, attributes, no_a, events, no_e, links, no_l, scope = span_fields.contents(
        span
    )
    status = (span.status.status_code.value, span.status.description)
    times = (span.start_time, span.end_time)
    expected = [span.name, span.context, span.parent, span.kind.value, *times, *status]
    assert found == expected
    assert attributes == dict(span.attributes or {})
    assert type(attributes) is dict
    assert (tuple(events), tuple(links)) == (span.events, span.links)
    assert scope is span.instrumentation_scope
    assert [no_a, no_e, no_l] == [0, 0, 0]


def test_a_span_context_is_what_its_constructor_makes() -> None:
    for is_remote in (True, False):
        made = span_fields.valid_context(
            5, 6, trace_api.TraceFlags(1), is_remote=is_remote
        )
        assert made == trace_api.SpanContext(
            5, 6, is_remote, trace_api.TraceFlags(1), trace_api.DEFAULT_TRACE_STATE
        )
        assert type(made) is trace_api.SpanContext
        assert made.is_valid


def test_a_context_with_a_span_alone() -> None:
    span = trace_api.NonRecordingSpan(SPAN_CONTEXT)
    made = trace_api.set_span_in_context(span, context_api.Context())
    assert span_fields.context_with_only(span) == made
    assert type(span_fields.context_with_only(span)) is type(made)


def parent_context(flags: int, *, is_remote: bool) -> context_api.Context:
    state = trace_api.TraceState([("vendor", "1")])
    parent = trace_api.SpanContext(5, 6, is_remote, trace_api.TraceFlags(flags), state)
    return trace_api.set_span_in_context(
        trace_api.NonRecordingSpan(parent), context_api.Context()
    )


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 255])
@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize(
    "sampler",
    [
        None,
        ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
        ParentBased(ALWAYS_ON, remote_parent_not_sampled=ALWAYS_ON),
        ParentBased(ALWAYS_ON, local_parent_not_sampled=ALWAYS_ON),
        ParentBased(TraceIdRatioBased(0.5)),
        ALWAYS_ON,
    ],
    ids=["default", "not remote", "all remote", "all local", "a ratio", "always"],
)
def test_a_child_is_the_one_that_the_tracer_would_start(
    flags: int, is_remote: bool, sampler: Sampler | None
) -> None:
    provider = TracerProvider(shutdown_on_exit=False, sampler=sampler)
    provider.add_span_processor(Seen())
    tracer = provider.get_tracer("t", "1", "https://schema")
    context = parent_context(flags, is_remote=is_remote)
    kind, links = trace_api.SpanKind.CONSUMER, [trace_api.Link(SPAN_CONTEXT)]
    theirs = tracer.start_span("a", context, kind, {"k": 1}, links)
    starter = span_starter.SpanStarter(tracer)
    ours = starter.start("a", context, kind, lambda: {"k": 1}, links)
    assert type(ours) is type(theirs)
    assert comparable(ours) == comparable(theirs)


SPAN_CONTEXT = trace_api.SpanContext(1, 2, is_remote=True)
KIND = trace_api.SpanKind.CONSUMER


def starter(*processors: SpanProcessor, **options: Any) -> span_starter.SpanStarter:
    provider = TracerProvider(shutdown_on_exit=False, **options)
    for processor in processors:
        provider.add_span_processor(processor)
    return span_starter.SpanStarter(provider.get_tracer("t", "1", "https://schema"))


def start_child(
    ours: span_starter.SpanStarter,
    parent: trace_api.SpanContext,
    name: str,
    attributes: dict[str, Any],
) -> lazy_span.LazySpan | None:
    """Start a span as the run of a task is started."""
    template = ours.template_below(parent)
    return None if template is None else template.span(parent, name, attributes, {})


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 255])
def test_a_span_like_others_is_the_one_that_the_tracer_would_start(flags: int) -> None:
    ours = starter(Seen())
    context = parent_context(flags, is_remote=True)
    parent = trace_api.get_current_span(context).get_span_context()
    spans = [start_child(ours, parent, "a", {"k": 1}) for _ in range(2)]
    if not flags & 1:
        assert spans == [None, None]
        return
    first, second = spans
    assert first is not None
    assert second is not None
    theirs = ours._tracer.start_span("a", context, KIND, {"k": 1})
    assert first.get_span_context().span_id != second.get_span_context().span_id
    assert set(vars(first)) == {"_context", "origin"}  # nobody has looked at it
    assert comparable(first) == comparable(second) == comparable(theirs)
    assert set(vars(first)) - {"begun"} == set(vars(theirs))
    first.add_event("e")
    first.add_link(SPAN_CONTEXT)
    first.set_attribute("k", 2)
    first.set_status(trace_api.StatusCode.ERROR, "why")
    first.end()
    assert [len(first.events), len(first.links)] == [1, 1]
    assert comparable(second) == comparable(theirs)
    assert second.is_recording()


@pytest.mark.parametrize(
    "ours",
    [
        starter(),
        starter(Seen(), Seen()),
        starter(Watching()),
        starter(Seen(), sampler=ParentBased(Curious())),
        starter(
            Seen(), sampler=ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF)
        ),
        starter(Seen(), span_limits=SpanLimits(max_span_attributes=2)),
        starter(Seen(), span_limits=SpanLimits(max_span_attribute_length=9)),
    ],
    ids=["nobody", "two", "a watcher", "sampler", "remote", "count", "length"],
)
def test_where_somebody_has_to_be_asked_no_span_is_copied(
    ours: span_starter.SpanStarter,
) -> None:
    context = parent_context(1, is_remote=True)
    parent = trace_api.get_current_span(context).get_span_context()
    assert start_child(ours, parent, "a", {"k": 1, "l": 2}) is None


def test_a_copied_span_has_the_resource_of_its_process() -> None:
    """A pool child's is set after its fork."""
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda *_: None, shutdown_on_exit=False
    )
    provider.add_span_processor(Seen())
    ours = span_starter.SpanStarter(provider.get_tracer("t"))
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    for name in ("before", "after"):
        resource = Resource({"service.instance.id": name})
        providers.set_resource(provider, resource)
        span = start_child(ours, parent.get_span_context(), "a", {})
        assert span is not None
        assert span.resource is resource


def changed(span: lazy_span.LazySpan, how: str) -> None:
    """Do what an application may do to the current span."""
    if how == "attribute":
        span.set_attribute("new", 1)
    elif how == "another value":
        span.set_attribute("k", "other")
    elif how == "status":
        span.set_status(trace_api.StatusCode.OK)
    elif how == "name":
        span.update_name("other")
    elif how == "event":
        span.add_event("e")
    elif how == "link":
        span.add_link(SPAN_CONTEXT)
    elif how == "end":
        span.end()


@pytest.mark.parametrize(
    "how",
    ["", "attribute", "another value", "status", "name", "event", "link", "end"],
)
def test_only_a_span_that_nobody_looks_at_ends_unheard(how: str) -> None:
    seen = Seen()
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    attributes = {"k": 1, "l": "x"}
    span = start_child(starter(seen), parent.get_span_context(), "a", attributes)
    assert span is not None
    changed(span, how)
    before = len(seen.names)
    ended = span.end_unobserved({"celery.state": "SUCCESS"})
    assert len(seen.names) == before
    if how:
        assert ended == 0
        assert span.is_recording() is (how != "end")
        assert "celery.state" not in (span.attributes or {})
        return
    assert ended == span.end_time
    assert ended >= (span.start_time or 0)
    assert not span.is_recording()
    assert span.attributes == {**attributes, "celery.state": "SUCCESS"}
    span.set_attribute("late", 1)  # refused, as by any span that has ended
    assert "late" not in (span.attributes or {})
    assert attributes == {"k": 1, "l": "x"}  # other spans have them, too


def test_of_two_threads_that_look_at_once_neither_loses_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one is faster."""
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    span = start_child(starter(Seen()), parent.get_span_context(), "a", {"k": 1})
    assert span is not None
    make = lazy_span.SpanTemplate.materialize

    def make_late(*arguments: Any) -> Any:
        monkeypatch.undo()
        second = threading.Thread(target=span.set_attribute, args=("second", 2))
        second.start()
        second.join()
        return make(*arguments)

    monkeypatch.setattr(lazy_span.SpanTemplate, "materialize", make_late)
    span.set_attribute("first", 1)
    assert span.attributes == {"k": 1, "first": 1, "second": 2}


def test_a_copy_of_a_span_is_that_span_so_far() -> None:
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    span = start_child(starter(Seen()), parent.get_span_context(), "a", {"k": 1})
    assert span is not None
    twin = copy.copy(span)
    assert (twin.name, dict(twin.attributes or {})) == ("a", {"k": 1})
    with pytest.raises(AttributeError):
        _ = span.no_such_thing


def comparable(span: trace_api.Span) -> dict[str, object]:
    """Return everything of a span but its id, its time and its locks."""
    if isinstance(span, lazy_span.LazySpan):
        assert [*span.events, *span.links] == []  # which makes all of it
    found = dict(vars(span))
    found.pop("begun", None)
    context = found.pop("_context")
    found["context"] = (context.trace_id, context.trace_flags, context.trace_state)
    for name in ("_start_time", "_lock", "_record_end_metrics"):
        found.pop(name, None)
    for name in ("_attributes", "_events", "_links"):
        found[name] = repr(found.get(name))
    return found


def test_a_disabled_tracer_starts_nothing() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Seen())
    tracer: Any = provider.get_tracer("t")
    if not hasattr(tracer, "_set_tracer_config"):
        return  # an SDK that cannot
    starter = span_starter.SpanStarter(tracer)

    def is_recording() -> bool:
        context, kind = parent_context(1, is_remote=True), trace_api.SpanKind.CONSUMER
        return starter.start("a", context, kind, dict).is_recording()

    assert is_recording()
    tracer._set_tracer_config(type(tracer._tracer_config)(is_enabled=False))
    assert not is_recording()


def test_the_default_propagator_is_known() -> None:
    parts = [TraceContextTextMapPropagator(), W3CBaggagePropagator()]
    assert contexts.is_default(propagate.get_global_textmap())
    assert contexts.is_default(CompositePropagator(parts))
    assert not contexts.is_default(CompositePropagator(parts[:1]))
    assert not contexts.is_default(parts[0])


def test_each_timer_is_a_step_of_its_own() -> None:
    """A worker keeps its steps by name: of two with one name one is lost."""
    app = Celery(set_as_current=False)
    for what in ("export", "health", "health"):
        celery_private.add_timer(app, what, 1.0, lambda: None)
    assert sorted(step.name for step in app.steps["consumer"]) == [
        "otel_celery.export",
        "otel_celery.health",
    ]
