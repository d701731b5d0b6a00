"""Records of runs in shared memory."""

from __future__ import annotations

import os

import pytest
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.in_flight import InFlightRun, killed_span
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.ipc.span_frames import START_BYTES, encode_span_start
from tests.support.in_flight_runs import a_dead_process, a_run, started_span


@pytest.mark.parametrize("task_id", ["id", "é" * 300, ""])
def test_a_note_is_read_as_it_was_written(task_id: str) -> None:
    note = Counters().in_flight_record(1)
    assert note.read() is None
    run = a_run(task_id=task_id)
    note.write(*run[:3])
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
    span = started_span("run/" + "x" * 3000, **attributes)
    frame = encode_span_start(span)
    assert len(frame) <= START_BYTES
    found = read_span(Resource.get_empty(), frame)
    assert (found.context, found.parent) == (span.context, span.parent)
    assert found.name.startswith("run/xxx")
    assert (found.attributes or {})["queue"] == "celery"


def test_the_record_of_a_dead_process_is_free_when_its_run_was_ended() -> None:
    counters = Counters()
    records = [counters.claim_record(7) for _ in range(3)]
    for record in records:
        assert record is not None
        record.write(*a_run(pid=a_dead_process())[:3])
    assert len(list(counters.in_flight_records())) == 3
    pid = os.fork()
    if not pid:  # its successor in the pool
        record = counters.claim_record(7)
        assert record is not None
        record.write(*a_run(task_id="successor")[:3])
        os._exit(0)
    os.waitpid(pid, 0)
    found = [record.read() for record in counters.in_flight_records()]
    assert [run.task_id for run in found if run] == ["id"] * 3 + ["successor"]
    assert [run.slot for run in found if run] == [7] * 4


def test_no_two_processes_have_one_record() -> None:
    counters = Counters()
    mine = counters.claim_record(1)
    assert mine is not None
    pid = os.fork()
    if not pid:
        record = counters.claim_record(1)
        assert record is not None
        record.write(*a_run(task_id="child")[:3])
        os._exit(0)
    os.waitpid(pid, 0)
    mine.write(*a_run(task_id="parent")[:3])
    found = {
        run.task_id for each in counters.in_flight_records() if (run := each.read())
    }
    assert found == {"child", "parent"}


def test_a_lost_span_is_the_span_that_was_noted() -> None:
    begun = started_span(queue="celery")
    run = InFlightRun(os.getpid(), "id", encode_span_start(begun))
    span = killed_span(run, Resource({"service.name": "x"}), 9, {"signal": "9"})
    assert (span.context, span.parent) == (begun.context, begun.parent)
    assert [link.context for link in span.links] == [begun.parent]
    assert (span.start_time, span.end_time) == (5, 9)
    assert (span.attributes or {})["queue"] == "celery"
    assert (span.attributes or {})["signal"] == "9"
    assert not span.status.is_ok
