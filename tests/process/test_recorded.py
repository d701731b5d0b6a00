"""What is recorded about a task, by the settings: sampling, links, names, arguments, messages."""

from __future__ import annotations

import os
import pkgutil
import signal
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import opentelemetry.semconv._incubating.attributes as conventions
import pytest
import redis

from otel_celery_launcher.receiver.spans import read_request
from tests.support.harness import Producer, hanging_process, runs, wait_until
from tests.support.servers import producer_on
from tests.support.wire import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher
    from tests.support.wire import Request

BAGGAGE = {"baggage": "tenant_id=acme"}

BOTH_MODES = pytest.mark.parametrize("mode", ["process", "inline"])


def test_sampling_by_task_where_a_trace_begins(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """By the rule at a root; a trace that has begun goes on as it began."""
    rules = {
        "OTEL_CELERY_SAMPLE": "shop.no*=0, shop.in*=1",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }
    worker = launcher.worker("-c1", **rules)
    producer = Producer(broker)
    producer.send("shop.noop")  # belongs to a request that is traced
    bare = [producer.app.send_task("shop.noop") for _ in range(10)]
    bare += [producer.app.send_task("shop.inner", (1,)) for _ in range(3)]
    bare += [producer.app.send_task("shop.nap", (0,)) for _ in range(10)]
    for result in bare:
        result.get(timeout=20)
    for task in ("shop.noop", "shop.inner"):
        arguments = '["1"]' if task == "shop.inner" else "[]"
        launcher.run("-A", "shop", "call", task, "--args", arguments, **rules)
    producer.wait_for_results()
    collector.wait_for(lambda spans: len(runs(spans)) >= 5, 20)
    worker.stop()
    names = Counter(span.name for span in runs(collector.spans))
    # The one of a request, three bare ones and the one that `call` has published.
    assert names == {"run/shop.noop": 1, "run/shop.inner": 4}
    published = [span.name for span in collector.spans if span.kind == "PRODUCER"]
    assert published == ["apply_async/shop.inner"]


@BOTH_MODES
@pytest.mark.parametrize(
    ("environ", "links_every_task"),
    [
        ({"OTEL_CELERY_TRACE": "link"}, True),
        ({"OTEL_CELERY_NEW_TRACE_TASKS": "x.*,shop.flak?"}, False),
    ],
    ids=["all", "by task"],
)
def test_linked_runs_begin_a_trace_and_keep_the_baggage(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    mode: str,
    environ: dict[str, str],
    links_every_task: bool,
) -> None:
    worker = launcher.worker("-c1", OTEL_CELERY_EXPORT=mode, **environ)
    producer = Producer(broker)
    producer.send("shop.flaky", 1)
    tenant = producer.send("shop.baggage_of", "tenant_id", headers=BAGGAGE)
    producer.wait_for_results()
    assert tenant.get(timeout=5) == "acme"
    worker.stop()
    flaky = [s for s in runs(collector.spans) if s.name == "run/shop.flaky"]
    first, second = sorted(flaky, key=lambda span: span.start)
    (retry,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert not first.parent_id
    assert not second.parent_id
    assert first.links == (producer.parents[next(iter(producer.parents))],)
    assert (retry.trace_id, retry.parent_id) == (first.trace_id, first.span_id)
    assert second.links == (retry.span_id,)
    assert len({first.trace_id, second.trace_id, *producer.parents}) == 4
    (other,) = [s for s in runs(collector.spans) if s.name == "run/shop.baggage_of"]
    assert bool(other.links) == links_every_task
    assert (not other.parent_id) == links_every_task


@BOTH_MODES
def test_a_killed_linked_run_keeps_its_link_and_its_waits(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    worker = launcher.worker(
        app="traces", OTEL_CELERY_TRACE="link", OTEL_CELERY_EXPORT=mode
    )
    producer = Producer(broker)
    producer.send("traces.hangs")
    os.kill(hanging_process(redis.Redis.from_url(broker)), signal.SIGKILL)
    wait_until(lambda: runs(collector.spans), 15, "the lost run has a span")
    worker.stop()
    (run,) = runs(collector.spans)
    assert run.is_error
    assert not run.parent_id
    assert run.links == tuple(producer.parents.values())
    assert run.attributes["celery.lost"] is True
    assert run.attributes["messaging.destination.name"] == "celery"
    assert run.attributes["celery.wait.worker"] >= 0


def current_names() -> set[str]:
    """Return the attribute names of the conventions that are not deprecated."""
    names: set[str] = set()
    for module in pkgutil.iter_modules(conventions.__path__):
        values = vars(import_module(f"{conventions.__name__}.{module.name}")).values()
        names |= {value for value in values if isinstance(value, str)}
    return names - OLDER - {"messaging.operation"}


OLDER = {
    "messaging.destination",
    "messaging.destination_kind",
    "messaging.conversation_id",
}

# By kind of span, in today's conventions.
OPERATIONS = {"PRODUCER": ("publish", "send"), "CONSUMER": ("process", "process")}


class Messaging(NamedTuple):
    """Spans with today's messaging conventions: of a publish, its run, a killed run."""

    transport: str
    port: int
    spans: list[ReceivedSpan]
    publish: ReceivedSpan
    run: ReceivedSpan
    killed: ReceivedSpan


@pytest.fixture(params=["redis", "rabbitmq"])
def messaging_spans(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    child_environ: dict[str, str],
    request: pytest.FixtureRequest,
) -> Callable[[str], Messaging]:
    transport = request.param

    def spans_with(opt_in: str) -> Messaging:
        producer = producer_on(transport, request, child_environ, broker)
        worker = launcher.worker(app="traces", OTEL_SEMCONV_STABILITY_OPT_IN=opt_in)
        producer.send("shop.publish_noop")
        wait_until(lambda: len(runs(collector.spans)) == 2, 20, "both have run")
        producer.send("traces.hangs")
        os.kill(hanging_process(redis.Redis.from_url(broker)), signal.SIGKILL)
        wait_until(
            lambda: len(runs(collector.spans)) == 3, 20, "the killed run is there"
        )
        worker.stop()
        (publish,) = [span for span in collector.spans if span.kind == "PRODUCER"]
        by_task = {
            span.attributes["celery.task_name"]: span for span in runs(collector.spans)
        }
        port = int(producer.app.connection_for_write().port)
        spans = [s for s in collector.spans if s.kind in OPERATIONS]
        return Messaging(
            transport,
            port,
            spans,
            publish,
            by_task["shop.noop"],
            by_task["traces.hangs"],
        )

    return spans_with


def messaging_names(span: ReceivedSpan) -> set[str]:
    return {name for name in span.attributes if name.startswith("messaging.")}


def assert_todays_messaging(found: Messaging) -> None:
    """Values of publish and run, names, scope and links of all."""
    names = Counter(span.name for span in found.spans)
    assert names == {"publish celery": 1, "process celery": 3}
    assert {span.scope for span in found.spans} == {"otel_celery_launcher"}
    assert found.run.parent_id == found.publish.span_id
    for span in runs(found.spans):
        assert span.links == (span.parent_id,)
    for span in (found.publish, found.run):
        name, kind = OPERATIONS[span.kind]
        expected: dict[str, Any] = {
            "messaging.system": found.transport,
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
            "messaging.destination.name": "celery",
            "server.address": "127.0.0.1",
            "server.port": found.port,
            "messaging.message.id": found.run.attributes["messaging.message.id"],
        }
        assert expected.items() <= span.attributes.items()
        assert span.attributes["messaging.client.id"]
        assert span.attributes["messaging.message.conversation_id"]
        has_key = "messaging.rabbitmq.destination.routing_key" in span.attributes
        assert has_key == (found.transport == "rabbitmq")
    assert found.killed.is_error


def test_messaging_conventions_replace_the_old_names(
    messaging_spans: Callable[[str], Messaging],
) -> None:
    """At publish, run, and for a killed run."""
    found = messaging_spans("messaging")
    assert_todays_messaging(found)
    for span in found.spans:
        assert messaging_names(span) <= current_names()


def test_messaging_dup_keeps_both(
    messaging_spans: Callable[[str], Messaging],
) -> None:
    """Today's conventions, and the attributes under their old names as well."""
    found = messaging_spans("http,messaging/dup")
    assert_todays_messaging(found)
    for span in (found.publish, found.run):
        assert messaging_names(span) & OLDER
        assert messaging_names(span) <= current_names() | OLDER


def test_baggage_and_arguments_are_recorded_where_asked_for(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """By name and by task; as Celery shows them, so that an application can hide them."""
    worker = launcher.worker(
        "-c1",
        OTEL_CELERY_BAGGAGE_ATTRIBUTES="tenant_id,nothing",
        OTEL_CELERY_CAPTURE_ARGS="shop.baggage_of,shop.takes=9",
    )
    producer = Producer(broker)
    producer.send("shop.baggage_of", "tenant_id", headers=BAGGAGE)
    producer.send("shop.takes", "a long argument", headers=BAGGAGE)
    producer.send("shop.takes", "private", argsrepr="hidden", headers=BAGGAGE)
    producer.send("shop.noop", 5, headers=BAGGAGE)
    producer.send("shop.publish_noop", headers=BAGGAGE)
    producer.wait_for_results()
    wait_until(lambda: len(runs(collector.spans)) == 6, 20, "all have run")
    worker.stop()
    recorded = sorted(
        (span.name, str(span.attributes.get("celery.args")))
        for span in runs(collector.spans)
    )
    assert recorded == [
        ("run/shop.baggage_of", "('tenant_id',)"),
        ("run/shop.noop", "None"),
        ("run/shop.noop", "None"),
        ("run/shop.publish_noop", "None"),
        ("run/shop.takes", "('a long "),
        ("run/shop.takes", "hidden"),
    ]
    kinds = {span.kind for span in collector.spans}
    assert kinds == {"CONSUMER", "PRODUCER"}
    assert {span.attributes["tenant_id"] for span in collector.spans} == {"acme"}
    assert not any("nothing" in span.attributes for span in collector.spans)


CANARY = "c4n4ry-s3cr3t"


def read_spans(requests: list[Request]) -> list[ReceivedSpan]:
    found: list[ReceivedSpan] = []
    for request in requests:
        if request.is_of_traces:
            found += read_request(request)
    return found


@BOTH_MODES
@pytest.mark.parametrize(
    ("messages", "leaves"), [("false", False), ("ture", False), ("true", True)]
)
def test_a_secret_is_not_in_the_bytes_on_the_wire(
    launcher: Launcher, broker: str, mode: str, messages: str, leaves: bool
) -> None:
    """In arguments and results never; in messages of exceptions where these are recorded."""
    with wire() as (endpoint, requests):
        worker = launcher.worker(
            "-c1",
            app="traces",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_CELERY_EXCEPTION_MESSAGES=messages,
            OTEL_CELERY_EXPORT=mode,
        )
        producer = Producer(broker)
        result = producer.send("traces.secret", CANARY, key=CANARY)
        result.get(timeout=20, propagate=False)
        producer.wait_until_acknowledged()
        worker.stop()
        spans = read_spans(requests)
    run, again = sorted(runs(spans), key=lambda span: span.start)
    assert (run.is_error, again.is_error) == (False, True)
    assert [s.name for s in spans if s.is_error and s.kind == "PRODUCER"] == [
        "apply_async/shop.noop"
    ]
    ((_, event),) = again.events
    assert event["exception.type"] == "RuntimeError"
    assert ", in secret" in event["exception.stacktrace"]
    assert (CANARY.encode() in b"".join(requests)) == leaves
    others = [each for each in requests if not each.is_of_traces]
    assert others
    assert CANARY.encode() not in b"".join(others)
    assert (CANARY in event["exception.stacktrace"]) == leaves
