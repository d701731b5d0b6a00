"""Runs as they begin and end in a pool child, on requests as Celery makes them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from celery.app.task import Context as Request
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.in_flight import InFlightRecord
from otel_celery_launcher.settings.tasks import TaskSettings
from otel_celery_launcher.tasks.attributes import Attributes
from otel_celery_launcher.tasks.run import Runs
from tests.support.spans import RecordingProcessor


@pytest.fixture
def ended() -> RecordingProcessor:
    return RecordingProcessor()


@pytest.fixture
def runs(ended: RecordingProcessor) -> Runs:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ended)
    settings = TaskSettings()
    found = Runs(provider.get_tracer("t"), Attributes(settings), settings)
    found.record = Counters().in_flight_record(1)
    return found


def a_task(broker: str, name: str = "t") -> Any:
    app = Celery(broker=broker, set_as_current=False)

    @app.task(name=name, shared=False)  # type: ignore[untyped-decorator]
    def nothing() -> None:
        pass

    app.finalize()
    return app.tasks[name]


def begun(runs: Runs, task: Any, queue: str = "default") -> Request:
    request = Request(
        id="1",
        delivery_info={"exchange": "", "routing_key": queue},
        hostname="celery@host",
        traceparent=f"00-{1:032x}-{2:016x}-01",
        is_eager=False,
    )
    task.request_stack.push(request)
    runs.begin(task)
    return request


def attributes(ended: RecordingProcessor) -> dict[str, Any]:
    return dict(ended.spans[-1].attributes or {})


def test_a_task_that_changes_its_delivery_info_changes_no_later_span(
    runs: Runs, ended: RecordingProcessor
) -> None:
    """Which is how a retry is sent to another queue."""
    task = a_task("memory://")
    first = begun(runs, task)
    first.delivery_info["routing_key"] = "slow"
    runs.end(task, "RETRY")
    assert attributes(ended)["messaging.destination.name"] == "default"
    begun(runs, task, "slow")
    runs.end(task, "SUCCESS")
    assert attributes(ended)["messaging.destination.name"] == "slow"
    assert "slow" in attributes(ended)["celery.delivery_info"]


def test_tasks_of_two_applications_may_have_one_name(
    runs: Runs, ended: RecordingProcessor
) -> None:
    for broker, system in (("redis://h/0", "redis"), ("amqp://h//", "rabbitmq")):
        task = a_task(broker)
        begun(runs, task)
        runs.end(task, "SUCCESS")
        assert attributes(ended)["messaging.system"] == system


def test_a_limit_raised_while_a_run_begins_leaves_no_note(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's signal swallows it, and the task goes on."""

    def raise_limit(*_: object) -> None:
        raise TimeoutError

    task = a_task("memory://")
    monkeypatch.setattr(contexts, "attach", raise_limit)
    with pytest.raises(TimeoutError):
        begun(runs, task)
    monkeypatch.undo()
    assert isinstance(runs.record, InFlightRecord)
    assert runs.record.read() is not None
    runs.end(task, "SUCCESS")
    assert runs.record.read() is None


def test_a_limit_raised_while_a_run_ends_leaves_no_context(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_task("memory://")
    begun(runs, task)
    assert trace.get_current_span().is_recording()

    def raise_limit(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(runs, "_end_span", raise_limit)
    with pytest.raises(TimeoutError):
        runs.end(task, "SUCCESS")
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_limit_that_strikes_at_the_end_leaves_no_run_in_flight(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery swallows it, and the span may be on its way already."""

    def strike(*_: object) -> None:
        raise SoftTimeLimitExceeded

    task = a_task("memory://")
    begun(runs, task)
    assert isinstance(runs.record, InFlightRecord)
    assert runs.record.read() is not None
    monkeypatch.setattr(runs, "_end_span", strike)
    with pytest.raises(SoftTimeLimitExceeded):
        runs.end(task, "SUCCESS")
    assert runs.record.read() is None


def test_a_histogram_that_raises_costs_no_span(
    runs: Runs, ended: RecordingProcessor
) -> None:
    """That of the application's own meter provider; Celery's signal logs the error."""

    class Broken:
        def record(self, *_: object) -> None:
            raise RuntimeError

    task = a_task("memory://")
    begun(runs, task)
    runs.histogram = cast("Any", Broken())
    with pytest.raises(RuntimeError):
        runs.end(task, "SUCCESS")
    assert [span.name for span in ended.spans] == [f"run/{task.name}"]
    assert not trace.get_current_span().get_span_context().is_valid
