"""Traces as they come: twice, in circles, deep, and faster than they are shown."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from otel_celery_launcher.receiver.forward import Forwarder
from otel_celery_launcher.receiver.spans import ReceivedSpan
from otel_celery_launcher.tail import task_table
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.task_figures import IDS_KEPT, NAMES_KEPT, TaskFigures
from otel_celery_launcher.tail.traces import Traces
from otel_celery_launcher.tail.waterfall import arrange
from otel_celery_launcher.terminal import cut, width
from tests.support.servers import free_port


def a_span(number: int, parent: int = 0, trace: int = 1, **others: Any) -> ReceivedSpan:
    fields: dict[str, Any] = {
        "name": f"span {number}", "kind": "INTERNAL", "trace_id": f"{trace:032x}",
        "span_id": f"{number:016x}", "parent_id": f"{parent:016x}" if parent else "",
        "start": float(number), "end": number + 1.0, "is_error": False,
        "status_text": "", "attributes": {}, "events": (), "links": (),
        "resource": {}, "scope": "",
    }  # fmt: skip
    return ReceivedSpan(**(fields | others))


def places(spans: list[ReceivedSpan]) -> list[tuple[str, int]]:
    return [(row.span.name, row.depth) for row in arrange(spans)]


def test_what_came_twice_is_shown_once() -> None:
    """An exporter sends again what was taken too late."""
    chain = [a_span(number, number - 1) for number in range(1, 15)]
    expected = [(f"span {number}", number - 1) for number in range(1, 15)]
    assert places([*chain, *chain]) == expected


def test_spans_that_are_each_others_parents_are_shown() -> None:
    assert places([a_span(1, 1)]) == [("span 1", 0)]
    assert places([a_span(1, 2), a_span(2, 1)]) == [("span 1", 0), ("span 2", 1)]


def test_a_deep_trace_is_shown() -> None:
    count = 5000
    chain = [a_span(number, number - 1) for number in range(1, count + 1)]
    assert places(chain)[-1] == (f"span {count}", count - 1)


def test_what_is_not_shown_in_time_is_dropped_and_counted() -> None:
    """Whoever reads tail's output may stop reading."""
    traces = Traces(limit=1000)
    for number in range(1, 5001):
        traces.add([a_span(number, trace=number)])
    shown = sum(len(trace.spans) for trace in traces.due(is_end=True))
    assert shown <= 1000
    assert shown + traces.dropped == 5000


def test_headers_of_a_connection_are_not_forwarded() -> None:
    """gRPC servers refuse a call with a ``connection`` header."""
    forwarder = Forwarder(f"http://127.0.0.1:{free_port()}")
    headers = {"Connection": "keep-alive", "Accept": "*/*", "Accept-Encoding": "gzip"}
    forwarder.put(b"", {**headers, "Authorization": "x"}.items())
    (request,) = forwarder._waiting
    assert request.metadata == [("authorization", "x")]
    forwarder.stop(0)


def test_a_failure_far_below_is_shown() -> None:
    """Each retry is two levels below the one before."""
    chain = [
        a_span(number, number - 1, is_error=True, status_text="why " * 40)
        for number in range(1, 200)
    ]
    for lines in (Screen().plain(arrange(chain)), Screen().drawn(arrange(chain), 60)):
        assert sum("why" in line for line in lines) == 199
    assert max(map(len, Screen().plain(arrange(chain)))) <= 80


@pytest.mark.parametrize("wait", [math.nan, math.inf, -math.inf, -5.0, -1e300, 1e308])
def test_a_wait_that_is_none_is_not_shown(wait: float) -> None:
    waits = {"celery.wait.broker": wait, "celery.wait.worker": wait}
    span = a_span(1, kind="CONSUMER", attributes=waits | {"celery.task_name": "t"})
    (row,) = rows = arrange([span])
    assert row.waited is None
    figures = TaskFigures()
    figures.add(rows)
    table = task_table.lines(figures.rows(), 80)
    assert max(map(len, [*Screen().drawn(rows, 80), *table])) <= 80


def test_names_of_tasks_are_bounded_in_number_and_length() -> None:
    """A name is whatever a message says."""
    figures = TaskFigures()
    for number in range(2 * NAMES_KEPT):
        name = {"celery.task_name": f"{number} " + "x" * 10_000}
        spans = [
            a_span(2 * number + 1, trace=number + 1, kind="PRODUCER", attributes=name),
            a_span(2 * number + 2, trace=number + 1, kind="CONSUMER", attributes=name),
        ]
        figures.add(arrange(spans))
    names = (*figures._names, *figures._open.values())
    assert sum(map(sys.getsizeof, names)) < 2**20
    assert len(figures._open) <= IDS_KEPT
    assert "(other tasks)" in "\n".join(task_table.lines(figures.rows(), 80))


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("entrée", 6, "entrée"),
        ("entre\u0301e and more", 6, "entre\u0301…"),
        ("入荷通知", 8, "入荷通知"),
        ("入荷通知を", 8, "入荷通…"),
        ("a\x1b[2J", 9, r"a\x1b[2J"),
        ("anything", 0, ""),
    ],
)
def test_what_is_cut_says_so_and_fits(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
    assert width(cut(text, columns)) <= columns
