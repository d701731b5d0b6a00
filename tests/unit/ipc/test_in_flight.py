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
    span = started_span("run/" + "x" * 3000, **attributes)
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
