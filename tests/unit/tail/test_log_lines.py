"""Log records under their spans: in order, bounded, and none that waits for ever."""

from __future__ import annotations

from typing import Any

import pytest

from otel_celery_launcher.receiver.logs import ReceivedLog
from otel_celery_launcher.tail.log_lines import LogLine
from otel_celery_launcher.tail.screen import LINES_SHOWN, Screen
from otel_celery_launcher.tail.traces import Traces
from otel_celery_launcher.tail.waterfall import arrange
from tests.unit.tail.test_waterfall import a_span


def a_record(body: Any, span: int = 1, trace: int = 1, **others: Any) -> ReceivedLog:
    fields: dict[str, Any] = {
        "logger": "shop", "time": 1.5, "severity": 9, "severity_text": "INFO",
        "body": body, "trace_id": f"{trace:032x}" if trace else "",
        "span_id": f"{span:016x}", "attributes": {}, "resource": {},
        "event": "",
    }  # fmt: skip
    return ReceivedLog(**(fields | others))


def texts(records: list[ReceivedLog]) -> list[list[str]]:
    rows = arrange([a_span(1), a_span(2, 1)], records=records)
    return [[line.text for line in row.lines] for row in rows]


def test_each_is_below_its_span_and_by_time() -> None:
    first, last = a_record("first", 2, time=2.0), a_record("last", 2, time=3.0)
    of_root, unknown = a_record("root"), a_record("of a span that has not come", 9)
    assert texts([last, of_root, first, unknown, first]) == [
        ["root", "of a span that has not come"],
        ["first", "last"],
    ]
    (row, _) = arrange([a_span(1), a_span(2, 1)], records=[of_root])
    assert row.lines[0].start == 0.5
    assert arrange([], records=[of_root]) == []


def test_the_last_lines_of_a_span_are_shown_and_the_rest_is_counted() -> None:
    records = [a_record(f"line {number}.", time=float(number)) for number in range(100)]
    for lines in (
        Screen().plain(arrange([a_span(1)], records=records)),
        Screen().drawn(arrange([a_span(1)], records=records), 60),
    ):
        text = "\n".join(lines)
        assert text.count(" INFO line ") == LINES_SHOWN
        assert "line 99." in text
        assert "80 earlier log records; --json has all" in text


@pytest.mark.parametrize(
    ("fields", "text", "severity"),
    [
        ({"body": "a\n  b"}, "a b", "INFO"),
        ({"body": None, "severity_text": "", "severity": 17}, "", "ERROR"),
        ({"body": {"a": 1}, "severity_text": "", "severity": 99}, "{'a': 1}", ""),
        (
            {
                "body": "no",
                "attributes": {"exception.type": "a.B", "exception.message": "why"},
            },
            "no (B: why)",
            "INFO",
        ),
        ({"body": None, "event": "gen_ai.choice"}, "gen_ai.choice", "INFO"),
        ({"body": "B!", "attributes": {"exception.type": "a.B"}}, "B!", "INFO"),
    ],
)
def test_what_a_line_says(fields: dict[str, Any], text: str, severity: str) -> None:
    line = LogLine(a_record(**fields), 0.0)
    assert (line.text, line.severity) == (text, severity)


def test_celerys_lines_name_a_task_by_the_beginning_of_its_id() -> None:
    body = "Task pay[2f20db74-31cd-4b3e-9b8f-3d2f9a3e9f10] succeeded in 0.1s"
    line = LogLine(a_record(body), 0.0)
    assert line.brief == "Task pay[2f20db74…] succeeded in 0.1s"


def test_records_wait_for_their_trace_and_bring_it_back() -> None:
    traces = Traces(quiet=0.0)
    traces.add_records([a_record("before", trace=7), a_record("of none", trace=0)])
    assert (traces.records, traces.apart) == (2, 2)
    assert traces.due() == []
    traces.add([a_span(1, trace=7)])
    (trace,) = traces.due()
    assert [record.body for record in trace.records] == ["before"]
    assert traces.apart == 1
    traces.add_records([a_record("late", trace=7)])
    (trace,) = traces.due()
    assert [record.body for record in trace.records] == ["before", "late"]
    assert trace.times_shown == 2
    assert traces.due() == []


def test_records_do_not_delay_a_trace_and_are_in_one_that_was_cut() -> None:
    now = [0.0]
    traces = Traces(patience=10, clock=lambda: now[0])
    traces.add([a_span(2, 1, trace=7)])  # its parent does not come
    for second in range(1, 12):
        now[0] = second
        traces.add_records([a_record("x", span=2, trace=7, time=float(second))])
    (trace,) = traces.due()
    assert len(trace.records) == 11
    traces = Traces(limit=2)
    traces.add([a_span(1, trace=7), a_span(2, trace=8)])
    traces.add_records([a_record("x", trace=7)])
    cut = {trace.trace_id: trace for trace in traces.due()}
    assert [each.body for each in cut[f"{7:032x}"].records] == ["x"]
    assert traces.apart == 0


def test_records_are_bounded() -> None:
    traces = Traces(limit=1000, limit_bytes=3_000_000)
    for number in range(1, 3001):
        traces.add_records([a_record("x", trace=number)])
    assert traces._waiting_count <= 500
    traces.add_records([a_record("x" * 600_000, trace=number) for number in (1, 2)])
    assert traces._waiting_bytes <= 1_000_000
    traces.add([a_span(1, trace=9000)])
    for _ in range(3):
        traces.add_records([a_record("x" * 600_000, trace=9000)])
    assert traces.cut, "a trace of many bytes is shown early"
