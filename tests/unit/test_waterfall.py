"""Traces as they come: twice, in circles, deep, and faster than they are shown."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.receiving.forward import Forwarder
from otel_celery_launcher.receiving.spans import ReceivedSpan
from otel_celery_launcher.tail.traces import Traces
from otel_celery_launcher.waterfall import arrange
from tests.conftest import free_port


def a_span(number: int, parent: int = 0, trace: int = 1) -> ReceivedSpan:
    fields: dict[str, Any] = {
        "name": f"span {number}", "kind": "INTERNAL", "trace_id": f"{trace:032x}",
        "span_id": f"{number:016x}", "parent_id": f"{parent:016x}" if parent else "",
        "start": float(number), "end": number + 1.0, "is_error": False,
        "status_text": "", "attributes": {}, "events": (), "links": (),
        "resource": {}, "scope": "",
    }  # fmt: skip
    return ReceivedSpan(**fields)


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
    ((_, kept),) = forwarder._waiting
    assert kept == [("authorization", "x")]
    forwarder.stop(0)
