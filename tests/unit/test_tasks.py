"""What the spans of tasks are made of: routes, waits, notes of runs, lost runs."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.task import Context as Request
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from otel_celery_launcher.ipc.counters import POOL_ROWS, Counters
from otel_celery_launcher.ipc.in_flight import InFlightRun, Reason, killed_span
from otel_celery_launcher.ipc.main_process import MainProcess
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.ipc.span_frames import START_BYTES, encode_span_start
from otel_celery_launcher.tasks.destination import broker_of, publish_destination
from otel_celery_launcher.tasks.killed import KilledRuns
from otel_celery_launcher.tasks.propagation import REQUEST, parent_of
from otel_celery_launcher.tasks.waits import take_times, waits


def an_app(**settings: Any) -> Celery:
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


TOPICS = Queue("topics", Exchange("events", type="topic"), routing_key="a.b")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "emails"},
        {"queue": TOPICS},
        {"exchange": "events", "routing_key": "a.c"},
        {"exchange": "events"},
        {"queue": TOPICS, "routing_key": "a.d"},
        {"exchange": Exchange("things", type="fanout"), "routing_key": "x"},
        {"queue": "emails", "exchange_type": "topic"},
    ],
    ids=str,
)
@pytest.mark.parametrize("default", ["celery", "mine"])
def test_route_is_what_celery_publishes_to(
    options: dict[str, Any], default: str
) -> None:
    """The rules of `send_task_message`, on the Celery that is installed."""
    app = an_app(task_default_queue=default)
    sent: list[tuple[str, str]] = []

    def look(exchange: Any = None, routing_key: Any = None, **_: Any) -> None:
        name = getattr(exchange, "name", exchange)
        sent.append((str(name or ""), str(routing_key or "")))

    message = app.amqp.as_task_v2("1", "task")
    signals.before_task_publish.connect(look)
    try:
        with app.connection_for_write() as connection:
            producer = app.amqp.Producer(connection)
            app.amqp.send_task_message(producer, "task", message, **options)
    finally:
        signals.before_task_publish.disconnect(look)
    assert sent == [publish_destination(app.amqp, options)[:2]]


@pytest.mark.parametrize(
    ("broker", "system"),
    [
        ("amqp://h//", "rabbitmq"),
        ("pyamqp://h//", "rabbitmq"),
        ("redis://h/0", "redis"),
        ("rediss://h/0", "redis"),
        ("memory://", "memory"),
        ("redis://a/0;redis://b/0", "redis"),
    ],
)
def test_messaging_system_is_the_broker(broker: str, system: str) -> None:
    assert broker_of(Celery(broker=broker, set_as_current=False)).system == system


T = 1_800_000_000.0  # seconds since the epoch


@pytest.mark.parametrize(
    ("published", "received", "eta", "started", "expected"),
    [
        (T + 10, T + 12, None, 15.0, {"broker": 2.0, "worker": 3.0}),
        (
            T + 10,
            T + 12,
            14.0,
            15.0,
            {"broker": 2.0, "worker": 1.0},
        ),  # held by the worker
        (
            T + 10,
            T + 12,
            11.0,
            15.0,
            {"broker": 1.0, "worker": 3.0},
        ),  # held by the broker
        (T + 10, T + 12, 14.0, 13.99, {"broker": 2.0, "worker": 0.0}),  # an early timer
        (T + 10, T + 12, None, 11.0, {"broker": 2.0}),  # the clock was set back
        (T + 20, T + 12, None, 15.0, {"worker": 3.0}),  # clocks apart
        (None, T + 12, None, 15.0, {"worker": 3.0}),  # published by somebody else
        (T + 10, None, None, 15.0, {}),
        (
            f"{T + 10}",
            T + 12,
            None,
            15.0,
            {"broker": 2.0, "worker": 3.0},
        ),  # as it is written
        ("soon", T + 12, None, 15.0, {"worker": 3.0}),
        ("nan", T + 12, None, 15.0, {"worker": 3.0}),
        (float("inf"), T + 12, None, 15.0, {"worker": 3.0}),
        ("-inf", T + 12, None, 15.0, {"worker": 3.0}),
        (-1e300, T + 12, None, 15.0, {"worker": 3.0}),
        (10**400, T + 12, None, 15.0, {"worker": 3.0}),
        ([T + 10], T + 12, None, 15.0, {"worker": 3.0}),
        (True, T + 12, None, 15.0, {"worker": 3.0}),
        ("5", T + 12, None, 15.0, {"worker": 3.0}),  # of 1970
        (T + 10, "12.0", None, 15.0, {}),  # received is ours alone, and no text
    ],
)
def test_waits(
    published: Any, received: Any, eta: Any, started: float, expected: dict[str, float]
) -> None:
    fields = {"otel_celery_published": published, "otel_celery_received": received}
    time_ = None if eta is None else datetime.fromtimestamp(T + eta, timezone.utc)
    found = waits(take_times(fields), time_ and time_.isoformat(), T + started)
    assert not fields, "the application finds none of ours"
    assert {name.rpartition(".")[2]: wait for name, wait in found.items()} == expected


@pytest.mark.parametrize(
    "eta", ["soon", 5, "1970-01-01T00:00:01Z", "1970-01-01T00:00:01"]
)
def test_an_odd_eta_does_no_harm(eta: Any) -> None:
    assert waits((None, 2.0), eta, 3.0) == {"celery.wait.worker": 1.0}


@pytest.mark.parametrize(
    "carrier", [5, "text", {"traceparent": 5}, {5: 5}, None, ["x"]]
)
def test_what_is_no_carrier_is_passed_over(carrier: Any) -> None:
    request = Request(otel_context=carrier, kwargs={"_otel": carrier}, args=[carrier])
    assert parent_of(request) == {}


IDS = st.one_of(st.text("0123456789abcdef", min_size=0, max_size=34), st.just("0" * 32))
TRACEPARENTS = st.one_of(
    st.none(),
    st.integers(),
    st.text(),
    st.builds(
        "-".join,
        st.tuples(
            st.sampled_from(["00", "01", "ff", "0"]),
            st.one_of(st.uuids().map(lambda each: each.hex), IDS),
            st.one_of(st.uuids().map(lambda each: each.hex[:16]), IDS),
            st.sampled_from(["00", "01", "03", "ff", "1", "01-x", "01 ", "01\n"]),
        ),
    ),
)


@given(
    traceparent=TRACEPARENTS,
    others=st.dictionaries(
        st.sampled_from(["tracestate", "baggage", "task"]),
        st.sampled_from(["a=1", "", "a=1,b=2", "nonsense;"]),
    ),
)
def test_a_message_is_read_as_the_propagators_would(
    traceparent: object, others: dict[str, str]
) -> None:
    request = Request({"traceparent": traceparent, **others})
    theirs = propagate.extract(request, Context(), REQUEST)
    ours = parent_of(request)
    assert baggage.get_all(ours) == baggage.get_all(theirs)
    assert trace.get_current_span(ours).get_span_context() == (
        trace.get_current_span(theirs).get_span_context()
    )


PROVIDER = TracerProvider()


def a_span(name: str = "run/shop.pay", **attributes: str) -> ReadableSpan:
    parent = SpanContext(1 << 127, 7, is_remote=True, trace_flags=TraceFlags(1))
    span = PROVIDER.get_tracer("tests").start_span(
        name,
        trace.set_span_in_context(trace.NonRecordingSpan(parent)),
        attributes=attributes,
        links=[trace.Link(parent, attributes)],
        start_time=5,
    )
    assert isinstance(span, ReadableSpan)
    return span


def a_run(pid: int = 0, task_id: str = "id") -> InFlightRun:
    return InFlightRun(pid or os.getpid(), task_id, encode_span_start(a_span()))


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("task_id", ["id", "é" * 300, ""])
def test_a_note_is_read_as_it_was_written(task_id: str) -> None:
    note = Counters().in_flight[1].current
    assert note.read() is None
    run = a_run(task_id=task_id)
    note.write(*run)
    found = note.read()
    assert found is not None
    assert task_id.startswith(found.task_id.rstrip("\ufffd"))
    assert (found.pid, found.frame) == (run.pid, run.frame)
    note.clear()
    assert note.read() is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"long": "x" * 5000, "queue": "celery"},
        {"k" * 5000: "x", "queue": "celery"},
        {"queue": "celery", **{f"key {number}": "x" * 50 for number in range(100)}},
    ],
    ids=["a long value", "a long name", "many"],
)
def test_too_large_a_start_keeps_its_identity(attributes: dict[str, str]) -> None:
    span = a_span("run/" + "x" * 3000, **attributes)
    frame = encode_span_start(span)
    assert len(frame) <= START_BYTES
    found = read_span(Resource.get_empty(), frame)
    assert (found.context, found.parent) == (span.context, span.parent)
    assert found.name.startswith("run/xxx")
    assert (found.attributes or {})["queue"] == "celery"


def test_a_successor_keeps_the_note_of_its_predecessor() -> None:
    notes = Counters().in_flight[1]
    notes.current.write(*a_run(pid=a_dead_process()))
    notes.keep_predecessor()
    assert notes.current.read() is None
    assert notes.predecessor.read() is not None


def test_only_the_runs_of_dead_processes_are_ended() -> None:
    counters = Counters()
    ended: list[tuple[int, InFlightRun, int, Reason | None]] = []
    killed = KilledRuns(counters, MainProcess(), lambda *run: ended.append(run))
    counters.in_flight[POOL_ROWS[0]].current.write(*a_run())
    dead = a_run(pid=a_dead_process(), task_id="dead")
    counters.in_flight[POOL_ROWS[3]].current.write(*dead)
    killed.poll()
    assert not ended, "Celery may have something to say"
    killed._task_failure(task_id="dead", exception=ValueError("why"))
    killed.poll()
    ((slot, task, _, reason),) = ended
    assert (slot, task) == (3, dead)
    assert reason == {"error.type": "builtins.ValueError", "text": "why"}
    killed.poll()
    assert len(ended) == 1
    killed.poll(is_end=True)
    assert len(ended) == 2, "at the end of the worker nothing runs any more"


def test_a_lost_span_is_the_span_that_was_noted() -> None:
    begun = a_span(queue="celery")
    run = InFlightRun(os.getpid(), "id", encode_span_start(begun))
    span = killed_span(run, Resource({"service.name": "x"}), 9, {"signal": "9"})
    assert (span.context, span.parent) == (begun.context, begun.parent)
    assert [link.context for link in span.links] == [begun.parent]
    assert (span.start_time, span.end_time) == (5, 9)
    assert (span.attributes or {})["queue"] == "celery"
    assert (span.attributes or {})["signal"] == "9"
    assert not span.status.is_ok
