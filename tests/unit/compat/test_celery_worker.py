"""Private names of Celery's worker and billiard's pool."""

from __future__ import annotations

import inspect
import json

import pytest
from billiard import pool as billiard_pool
from celery import Celery
from celery.beat import Scheduler
from celery.worker import state
from celery.worker.control import _iter_schedule_requests
from celery.worker.request import Request

from otel_celery_launcher.compat import celery_worker


def test_the_status_of_a_recycled_child() -> None:
    assert celery_worker.RECYCLED == billiard_pool.EX_RECYCLE


def test_what_is_read_of_a_worker() -> None:
    assert isinstance(state.active_requests, (set, type(state.reserved_requests)))
    source = inspect.getsource(_iter_schedule_requests)
    assert "timer.schedule.queue" in source
    assert "waiting.entry.args[0]" in source


def test_what_billiard_calls_for_each_process_that_has_ended() -> None:
    source = inspect.getsource(billiard_pool.Pool._join_exited_workers)
    assert "self.process_flush_queues(worker)" in source
    assert "_controlled_termination" in source
    assert hasattr(billiard_pool.ApplyResult, "worker_pids")


def test_what_is_wrapped() -> None:
    assert list(inspect.signature(Request.on_timeout).parameters)[1:] == [
        "soft",
        "timeout",
    ]
    assert callable(Scheduler.tick)


def test_a_broker_is_described_with_its_password_and_without_functions() -> None:
    app = Celery(broker="redis://:secret@127.0.0.1:6399/3")
    app.conf.broker_transport_options = {
        "visibility_timeout": 60,
        "predefined": {"f": print},
    }
    described = json.loads(celery_worker.describe_broker(app))
    assert described["url"] == "redis://:secret@127.0.0.1:6399/3"
    assert described["options"]["visibility_timeout"] == 60
    assert described["options"]["predefined"] == {"f": None}


@pytest.mark.parametrize("url", ["no-such-transport://x", "memory://", "filesystem://"])
def test_a_broker_that_another_process_cannot_ask_is_left_out(url: str) -> None:
    """Its queues would be reported as empty."""
    assert celery_worker.describe_broker(Celery(broker=url)) == ""


def test_the_queues_of_an_application() -> None:
    app = Celery(broker="memory://")
    app.conf.task_queues = {"a": {}, "b": {}}
    app.amqp.queues.select(["b"])
    assert celery_worker.queue_names(app) == ["b"]
