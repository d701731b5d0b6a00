"""The exporter process's queue: bounded, retrying, and what it never gives up."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_celery_launcher.delivery.answers import TAKEN, Answer, grpc_answer
from otel_celery_launcher.delivery.exporters import PreparedExporter
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.delivery.span_encoder import encode_spans
from otel_celery_launcher.exporter_process.pipeline import Pipeline, Source
from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW, Row
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import Envelope, flush_message
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.ring import Ring
from otel_celery_launcher.ipc.ring_cursor import Reads
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


def message(name: str, **attributes: str) -> bytes:
    span = ended_span(name, **attributes)
    envelope = Envelope(TRACES.number, encode_resource(span.resource))
    return envelope.message([encode_span(span)])


class Sending:
    """A pipeline and the ring that it sends from; the test is the reader."""

    def __init__(
        self,
        make: Callable[[], SpanExporter],
        row: Row,
        *prepare: Any,
        size: int = 2 * 2**20,
    ) -> None:
        self.figures = row.of(TRACES)
        self.memory = mmap.mmap(-1, size)
        self.ring = Ring(self.memory, [Reads(1, "test", self.figures)])
        self.tokens: list[int] = []
        self.pipeline = Pipeline(
            TRACES,
            read_span,
            lambda: PreparedExporter(make(), prepare),
            row,
            Source(self.ring, self.ring.cursors[0]),
            unknown=encode_resource(Resource({})),
            on_flush=lambda _, token: self.tokens.append(token),
        )
        self.start, self.stop = self.pipeline.start, self.pipeline.stop
        self.note_error = self.pipeline.note_error

    @property
    def queued(self) -> int:
        return self.pipeline.queued

    def put(self, message: bytes) -> None:
        self.ring.append(message)
        self.pipeline.notice()

    def flush(self) -> None:
        token = time.monotonic_ns()
        self.put(flush_message(TRACES.number, 0, token))
        wait_until(lambda: token in self.tokens, 10, "it is flushed")


def a_pipeline(make: Callable[[], SpanExporter], row: Row, *prepare: Any) -> Sending:
    return Sending(make, row, *prepare)


def flushed(pipeline: Sending) -> None:
    pipeline.flush()


def test_a_flush_sends_at_once_and_in_order() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row)
    pipeline.start()
    for number in range(1000):
        pipeline.put(message(str(number)))
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
    pipeline = a_pipeline(lambda: exporter, row)
    pipeline.start()
    pipeline.put(message("alone"))
    wait_until(lambda: exporter.names == ["alone"], 2, "the span is sent")
    pipeline.stop(5)


def test_outages_keep_the_data() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter([FAILURE, FAILURE])
    pipeline = a_pipeline(lambda: exporter, row)
    exporter.log = lambda: pipeline.note_error("UNAUTHENTICATED: token expired")
    pipeline.start()
    pipeline.put(message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (1, 0)
    assert row.error == "UNAUTHENTICATED: token expired"
    pipeline.stop(5)


class Picky(Exporter):
    """Refuses every batch with a span whose name begins with "poison"."""

    refusals = 0
    is_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.is_down or any(span.name.startswith("poison") for span in spans):
            self.refusals += 1
            return FAILURE
        return super().export(spans)


def a_picky_pipeline() -> tuple[Picky, Sending]:
    exporter = Picky()
    return exporter, a_pipeline(lambda: exporter, Counters().rows[EXPORTER_ROW])


@pytest.mark.parametrize("position", [0, 1, 499, 999])
def test_a_poisoned_span_among_a_thousand_is_dropped_alone(position: int) -> None:
    exporter, pipeline = a_picky_pipeline()
    for number in range(1000):
        pipeline.put(message("poison" if number == position else str(number)))
    pipeline.start()
    flushed(pipeline)
    assert len(exporter.names) == len(set(exporter.names)) == 999
    assert (pipeline.figures.exported, pipeline.figures.failed) == (999, 1)
    assert exporter.refusals < 30
    pipeline.stop(5)


def test_a_poisoned_span_alone_is_kept_until_another_is_taken() -> None:
    """Nothing else shows that the collector takes anything."""
    exporter, pipeline = a_picky_pipeline()
    pipeline.start()
    pipeline.put(message("poison"))
    wait_until(lambda: exporter.refusals > 2, 5, "it is tried again")
    assert (pipeline.figures.failed, pipeline.queued) == (0, 1)
    pipeline.put(message("good"))
    flushed(pipeline)
    assert exporter.names == ["good"]
    assert (pipeline.figures.exported, pipeline.figures.failed) == (1, 1)
    pipeline.stop(5)


def test_many_poisoned_spans_stop_nothing() -> None:
    exporter, pipeline = a_picky_pipeline()
    for number in range(1000):
        pipeline.put(message(str(number) if number % 40 else f"poison {number}"))
    pipeline.start()
    flushed(pipeline)
    assert len(exporter.names) == len(set(exporter.names)) == 975
    assert (pipeline.figures.exported, pipeline.figures.failed) == (975, 25)
    pipeline.stop(5)


def test_a_batch_of_nothing_but_poison_is_found_out_by_what_comes_behind_it() -> None:
    exporter, pipeline = a_picky_pipeline()
    for number in range(20):
        pipeline.put(message(f"poison {number}"))
    pipeline.start()
    wait_until(lambda: exporter.refusals > 2, 5, "it is refused")
    for number in range(10):
        pipeline.put(message(str(number)))
    wait_until(lambda: len(exporter.names) == 10, 60, "the others are taken")
    pipeline.stop(5)


def test_a_batch_that_is_stuck_stays_in_the_ring_for_a_successor() -> None:
    exporter, pipeline = a_picky_pipeline()
    exporter.is_down = True
    for number in range(10):
        pipeline.put(message(str(number)))
    pipeline.start()
    wait_until(lambda: exporter.refusals > 18, 10, "it has tried for a while")
    successor = Ring(pipeline.memory, [Reads(1, "test", pipeline.figures)])
    assert successor.cursors[0].queued == 10
    pipeline.stop(5)


def test_what_was_taken_between_two_outages_makes_no_poison() -> None:
    """A collector that flaps: it answers INTERNAL, takes one batch, answers it again."""
    exporter, pipeline = a_picky_pipeline()
    pipeline.start()
    for number in range(60):
        pipeline.put(message(str(number)))
    for _ in range(3):
        exporter.is_down = True
        exporter.refusals = 0
        wait_until(lambda: exporter.refusals > 5, 20, "it is refused")
        exporter.is_down = False
        flushed(pipeline)
        for number in range(60):
            pipeline.put(message(f"more {number}"))
    exporter.is_down = False
    flushed(pipeline)
    assert pipeline.figures.failed == 0
    assert len(exporter.names) == 240
    pipeline.stop(5)


def test_where_everything_is_refused_it_is_an_outage_and_nothing_is_dropped() -> None:
    exporter, pipeline = a_picky_pipeline()
    exporter.is_down = True
    for number in range(1000):
        pipeline.put(message(str(number)))
    pipeline.start()
    wait_until(lambda: exporter.refusals > 18, 10, "it has tried for a while")
    assert (pipeline.figures.failed, pipeline.queued) == (0, 1000)
    exporter.is_down = False
    flushed(pipeline)
    assert sorted(exporter.names, key=int) == [str(number) for number in range(1000)]
    assert (pipeline.figures.exported, pipeline.figures.failed) == (1000, 0)
    pipeline.stop(5)


def test_an_exporter_that_raises_for_want_of_a_collector_keeps_the_data() -> None:
    """Older HTTP exporters do; `requests` puts the whole URL into its errors."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter(
        [ConnectionError("https://user:secret@collector/v1?key=secret")]
    )
    pipeline = a_pipeline(lambda: exporter, row)
    pipeline.start()
    pipeline.put(message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (1, 0)
    assert row.error == "ConnectionError: https://…"
    pipeline.stop(5)


def test_a_span_that_no_encoder_takes_goes_alone() -> None:
    """An application may name a span by a number."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Encoding()
    pipeline = a_pipeline(lambda: exporter, row)
    pipeline.start()
    for name in ("1", "2", 3, "4", "5"):
        pipeline.put(message(name))
    flushed(pipeline)
    assert sorted(exporter.names) == ["1", "2", "4", "5"]
    assert (row.of(TRACES).exported, row.of(TRACES).failed) == (4, 1)
    assert "TypeError" in row.error
    pipeline.stop(5)


def test_what_an_encoder_cannot_take_is_cleaned_and_sent() -> None:
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter()
    pipeline = a_pipeline(lambda: exporter, row, sanitize)
    pipeline.start()
    pipeline.put(message("bad \ud800"))
    flushed(pipeline)
    assert exporter.names == ["bad ?"]
    pipeline.stop(5)


def test_a_batch_too_large_for_the_collector_is_sent_in_halves() -> None:
    """The collector's limit is not ours to know; only a span alone is given up."""
    exporter, pipeline = a_picky_pipeline()

    def send(spans: Sequence[ReadableSpan]) -> Answer:
        if len(spans) > 2 or spans[0].name == "huge":
            return grpc_answer("RESOURCE_EXHAUSTED", "larger than max (9 vs. 4)", None)
        exporter.names += [span.name for span in spans]
        return TAKEN

    for name in ("1", "2", "3", "huge", "4", "5"):
        pipeline.put(message(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedExporter, "send", lambda _, spans: send(spans))
        pipeline.start()
        flushed(pipeline)
    assert sorted(exporter.names) == ["1", "2", "3", "4", "5"]
    assert (pipeline.figures.exported, pipeline.figures.failed) == (5, 1)
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

    pipeline = a_pipeline(make, row)
    pipeline.start()
    pipeline.put(message("kept"))
    flushed(pipeline)
    assert exporter.names == ["kept"]
    assert row.error == "PermissionError: key.pem"
    pipeline.stop(5)


def test_a_stop_ends_in_time_and_leaves_what_was_not_taken() -> None:
    """In the ring: a successor may send it."""
    row = Counters().rows[EXPORTER_ROW]
    exporter = Exporter([FAILURE] * 100)
    pipeline = a_pipeline(lambda: exporter, row)
    pipeline.start()
    pipeline.put(message("never"))
    start = time.monotonic()
    pipeline.stop(10)
    assert time.monotonic() - start < 5
    assert pipeline.queued == 1
    assert row.of(TRACES).unaccounted == 1
