"""Celery and billiard: private names that we lean on."""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import billiard.spawn
from billiard.context import get_spawning_popen, set_spawning_popen
from celery import Celery
from celery.app.log import TaskFormatter
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.beat import Scheduler
from celery.utils.log import ColorFormatter
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks
from opentelemetry import context as context_api

from otel_celery_launcher.compat import (
    celery_private,
)

if TYPE_CHECKING:
    from collections.abc import Callable


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


def test_each_timer_is_a_step_of_its_own() -> None:
    """A worker keeps its steps by name: of two with one name one is lost."""
    app = Celery(set_as_current=False)
    for what in ("export", "health", "health"):
        celery_private.add_timer(app, what, 1.0, lambda: None)
    assert sorted(step.name for step in app.steps["consumer"]) == [
        "otel_celery.export",
        "otel_celery.health",
    ]
