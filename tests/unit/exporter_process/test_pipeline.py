"""The exporter process's queue: bounded, retrying, and what it never gives up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_celery_launcher.delivery.exporters import PreparedExporter
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.exporter_process.pipeline import Flush, Pipeline
from otel_celery_launcher.exporter_process.span_encoder import encode_spans
from otel_celery_launcher.ipc.counters import EXPORTER_ROW, Counters, Row
from otel_celery_launcher.ipc.datagrams import Envelope, split_message
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.ipc.span_frames import encode_span
from otel_celery_launcher.signals import TRACES
from tests.support.harness import wait_until
from tests.support.spans import ended_span

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class Exporter(SpanExporter):
    """Answers what it is told to, one answer an export, then success."""

    def __init__(self, answers: Sequence[SpanExportResult | Exception] = ()) -> None:
        self.answers = list(answers)
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.log: Callable[[], None] = lambda: None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        answer = self.answers.pop(0) if self.answers else SUCCESS
        if isinstance(answer, Exception):
            raise answer
        if answer is FAILURE:
            self.log()
            return FAILURE
        self.names += [span.name for span in spans]
        self.sizes.append(len(spans))
        return SUCCESS


class Encoding(Exporter):
    """Encodes what it takes."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans)
        return super().export(spans)


def message(name: str, **attributes: str) -> tuple[bytes, int, bytes]:
    span = ended_span(name, **attributes)
    data = Envelope(TRACES.number, encode_resource(span.resource)).message(
        [encode_span(span)]
    )
    _, count, resource, body = split_message(data)
    return resource, count, body


def a_pipeline(
    make: Callable[[], SpanExporter], row: Row, limit: int, *prepare: Any
) -> Pipeline:
    return Pipeline(
        TRACES, read_span, lambda: PreparedExporter(make(), prepare), row, limit
    )


def flushed(pipeline: Pipeline) -> None:
    done = threading.Event()
    pipeline.put_flush(Flush(done.set))
    assert done.wait(10)


def test_a_flush_sends_at_once_and_in_order() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    pipeline.start()
    for number in range(1000):
        pipeline.put(*message(str(number)))
    flushed(pipeline)
    assert exporter.names == [str(number) for number in range(1000)]
    assert max(exporter.sizes) <= 512
    assert (row.of(TRACES).exported, row.of(TRACES).dropped, pipeline.queued) == (
        1000,
        0,
        0,
    )
    pipeline.stop(5)


def test_a_span_waits_half_a_second_at_most() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    pipeline.start()
    pipeline.put(*message("alone"))
    wait_until(lambda: exporter.names == ["alone"], 2, "the span is sent")
    pipeline.stop(5)


def test_outages_keep_the_data() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter([FAILURE, FAILURE])
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    exporter.log = lambda: pipeline.note_error("UNAUTHENTICATED: token expired")
    pipeline.start()
    pipeline.put(*message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (1, 0)
    assert row.error == "UNAUTHENTICATED: token expired"
    pipeline.stop(5)


@pytest.mark.parametrize(
    "answer",
    ["INVALID_ARGUMENT: no", "Failed to export span batch code: 400, reason: Bad"],
)
def test_a_refusal_of_the_data_drops_that_batch_alone(answer: str) -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter([FAILURE])
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    exporter.log = lambda: pipeline.note_error(answer)
    pipeline.start()
    pipeline.put(*message("refused"))
    flushed(pipeline)
    pipeline.put(*message("next"))
    flushed(pipeline)
    assert exporter.names == ["next"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (1, 1)
    pipeline.stop(5)


def test_an_exporter_that_raises_for_want_of_a_collector_keeps_the_data() -> None:
    """Older HTTP exporters do; `requests` puts the whole URL into its errors."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter(
        [ConnectionError("https://user:secret@collector/v1?key=secret")]
    )
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    pipeline.start()
    pipeline.put(*message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (1, 0)
    assert row.error == "ConnectionError: https://…"
    pipeline.stop(5)


def test_a_span_that_no_encoder_takes_goes_alone() -> None:
    """An application may name a span by a number."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Encoding()
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    pipeline.start()
    for name in ("1", "2", 3, "4", "5"):
        pipeline.put(*message(name))
    flushed(pipeline)
    assert sorted(exporter.names) == ["1", "2", "4", "5"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (4, 1)
    assert row.error.startswith("cannot be encoded: TypeError")
    pipeline.stop(5)


def test_what_an_encoder_cannot_take_is_cleaned_and_sent() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, 10**6, sanitize)
    pipeline.start()
    pipeline.put(*message("bad \ud800"))
    flushed(pipeline)
    assert exporter.names == ["bad ?"]
    pipeline.stop(5)


def test_a_batch_too_large_for_the_collector_is_sent_in_halves() -> None:
    """The collector's limit is not ours to know; only a span alone is given up."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, 10**6)

    def export(spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if len(spans) > 2 or spans[0].name == "huge":
            pipeline.note_error("RESOURCE_EXHAUSTED: message larger than max (9 vs. 4)")
            return FAILURE
        exporter.names += [span.name for span in spans]
        return SUCCESS

    exporter.export = export  # type: ignore[method-assign]
    pipeline.start()
    for name in ("1", "2", "3", "huge", "4", "5"):
        pipeline.put(*message(name))
    flushed(pipeline)
    assert sorted(exporter.names) == ["1", "2", "3", "4", "5"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (5, 1)
    pipeline.stop(5)


def test_an_exporter_that_cannot_be_built_yet_is_tried_again() -> None:
    """Certificates may be unreadable while they rotate."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    attempts = iter([PermissionError("key.pem"), None])

    def make() -> SpanExporter:
        if error := next(attempts):
            raise error
        return exporter

    pipeline = a_pipeline(make, row, 10**6)
    pipeline.start()
    pipeline.put(*message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert row.error == "PermissionError: key.pem"
    pipeline.stop(5)


def test_the_queue_is_bounded_and_drops_the_oldest_counted() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, 100_000)
    for number in range(1000):  # nobody sends yet
        pipeline.put(*message(str(number), filling="x" * 200))
    kept = pipeline.queued
    assert 100 < kept < 400
    assert row.of(TRACES).dropped == 1000 - kept
    pipeline.start()
    flushed(pipeline)
    assert exporter.names == [str(number) for number in range(1000 - kept, 1000)]
    pipeline.stop(5)


def test_a_stop_sends_what_is_there_and_ends_in_time() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter([FAILURE] * 100)
    pipeline = a_pipeline(lambda: exporter, row, 10**6)
    pipeline.start()
    pipeline.put(*message("never"))
    pipeline.stop(10)
    assert row.of(TRACES).failed == 1
