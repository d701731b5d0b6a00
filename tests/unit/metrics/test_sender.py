"""Exports: what is due, what is said, and deltas."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.delivery.answers import TAKEN, Answer, Verdict
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.metrics.destination import MetricConfig, Texts
from otel_celery_launcher.metrics.layout import Description, Kind
from otel_celery_launcher.metrics.page import MetricPage
from otel_celery_launcher.metrics.sender import MetricSender
from otel_celery_launcher.metrics.writer import Writer
from otel_celery_launcher.signals import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTER = Description(Kind.COUNTER, "c")
GAUGE = Description(Kind.GAUGE, "g")
UNIMPLEMENTED = Answer(Verdict.REFUSED, "UNIMPLEMENTED: unknown service")
AWAY = Answer(Verdict.LATER, "UNAVAILABLE: connection refused", is_unreachable=True)


class Collector:
    """Takes what is exported, or answers as it is told."""

    def __init__(self) -> None:
        self.answer = TAKEN
        self.sums: list[tuple[str, float, str]] = []
        self.asked = 0

    def send(self, data: Any) -> Answer:
        self.asked += 1
        if self.answer.verdict is Verdict.TAKEN:
            for resource in data.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        temporality = getattr(
                            metric.data, "aggregation_temporality", None
                        )
                        word = "" if temporality is None else temporality.name
                        self.sums += [
                            (metric.name, point.value, word)
                            for point in metric.data.data_points
                        ]
        return self.answer

    def shutdown(self) -> None:
        pass


class Exported:
    """A page with a counter, and a sender."""

    def __init__(self, temporality: str = "cumulative", interval: float = 60) -> None:
        self.page = MetricPage()
        self.writer = Writer(self.page)
        self.collector = Collector()
        self.said: list[str] = []
        self.counters = Counters()
        self.sender = self.new_sender(temporality, interval)

    def new_sender(self, temporality: str, interval: float = 60) -> MetricSender:
        return MetricSender(
            self.page,
            MetricConfig(
                interval=interval,
                temporality=temporality,
                texts=Texts(destination="http://c:4317"),
            ),
            {"otlp_proto_grpc": lambda: self.collector},
            self.counters.rows[1].of(METRICS),
            say=self.said.append,
        )

    def add(self, amount: float) -> None:
        cells, _ = self.writer.cells(COUNTER, ())
        self.page.values[cells] += amount


def test_what_was_not_taken_is_in_the_next_export() -> None:
    exported = Exported()
    exported.add(1)
    exported.collector.answer = AWAY
    assert not exported.sender.export()
    exported.add(2)
    exported.collector.answer = TAKEN
    exported.sender.export()
    assert exported.collector.sums == [("c", 3, "CUMULATIVE")]
    assert exported.counters.of(METRICS).exported == 1
    assert exported.counters.of(METRICS).failed == 1


def test_a_collector_without_metrics_is_left_alone_and_said_once() -> None:
    exported = Exported()
    exported.add(1)
    exported.collector.answer = UNIMPLEMENTED
    for _ in range(5):
        exported.sender.export()
    assert exported.collector.asked == 1
    exported.new_sender("cumulative").export()  # a successor knows it, too
    assert exported.collector.asked == 1
    (line,) = exported.said
    assert "takes no metrics" in line
    assert "OTEL_METRICS_EXPORTER=none" in line


def test_an_outage_is_said_once_and_its_end_once() -> None:
    exported = Exported()
    exported.add(1)
    exported.collector.answer = AWAY
    for _ in range(4):
        exported.sender.export()
    exported.collector.answer = TAKEN
    for _ in range(2):
        exported.sender.export()
    first, second = exported.said
    assert first.startswith("metrics do not reach http://c:4317: nothing listens")
    assert second == "metrics reach http://c:4317 again"


@pytest.mark.parametrize("temporality", ["delta", "lowmemory"])
def test_deltas_are_what_came_since_the_last_taken_export(temporality: str) -> None:
    exported = Exported(temporality)
    for amount, answer in ((1, TAKEN), (2, AWAY), (3, TAKEN), (0, TAKEN), (4, TAKEN)):
        exported.add(amount)
        exported.collector.answer = answer
        exported.sender.export()
    exported.sender.export_last()  # there is nothing more
    successor = exported.new_sender(temporality)
    exported.add(5)
    successor.export()
    assert exported.collector.sums == [
        ("c", 1, "DELTA"),
        ("c", 5, "DELTA"),
        ("c", 4, "DELTA"),
        ("c", 5, "DELTA"),
    ]


def test_a_flush_exports_now_and_says_so() -> None:
    exported = Exported()
    exported.add(1)
    exported.sender.start()
    done = threading.Event()
    exported.sender.flush(done.set)
    assert done.wait(5)
    exported.add(1)
    exported.sender.stop(5)
    values = [value for _, value, _ in exported.collector.sums]
    assert values == [1, 2]
    _wait(lambda: not exported.sender.is_alive())


def test_an_interval_is_an_interval() -> None:
    exported = Exported(interval=0.1)
    exported.add(1)
    exported.sender.start()
    _wait(lambda: exported.collector.asked >= 3)
    exported.sender.stop(5, exports=False)


def test_what_is_asked_for_gets_totals() -> None:
    exported = Exported("delta")
    exported.add(7)
    exported.sender.export()
    data = exported.sender.collect()
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.data.data_points[0].value == 7


def _wait(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_deltas_of_several_requests_are_noted_one_by_one() -> None:
    """The second request is refused for a while: the first one's are not sent again."""
    exported = Exported("delta")
    for number in range(3000):
        cells, _ = exported.writer.cells(
            Description(Kind.COUNTER, f"c{number // 1500}"), (("n", number),)
        )
        exported.page.values[cells] += 1
    answers = [TAKEN, AWAY, AWAY, TAKEN]
    send = exported.collector.send

    def answer_in_turn(data: Any) -> Answer:
        exported.collector.answer = answers.pop(0)
        return send(data)

    exported.collector.send = answer_in_turn  # type: ignore[method-assign]
    for _ in range(3):
        exported.sender.export()
    assert sum(value for _, value, _ in exported.collector.sums) == 3000


@pytest.mark.parametrize("error", ["too large", "cannot be sent: bad value"])
def test_a_request_that_cannot_be_sent_is_divided(error: str) -> None:
    """One point that no collector takes costs no other one."""
    exported = Exported()
    for number in range(10):
        cells, _ = exported.writer.cells(COUNTER, (("n", number),))
        exported.page.values[cells] += number
    send = exported.collector.send
    verdict = Verdict.TOO_LARGE if error == "too large" else Verdict.REFUSED

    def refuse_seven(data: Any) -> Answer:
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        if any(point.value == 7 for point in metric.data.data_points):
            return Answer(verdict, error)
        return send(data)

    exported.collector.send = refuse_seven  # type: ignore[method-assign]
    assert exported.sender.export()
    values = sorted(value for _, value, _ in exported.collector.sums)
    assert values == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_a_flush_that_fails_is_tried_again() -> None:
    exported = Exported()
    exported.add(1)
    exported.sender.export()
    exported.collector.answer = AWAY
    exported.sender.start()
    done = threading.Event()
    exported.sender.flush(done.set)
    assert not done.wait(0.8)
    exported.collector.answer = TAKEN
    assert done.wait(5)
    exported.sender.stop(5)


def test_an_exporter_that_cannot_be_made_is_a_failed_export() -> None:
    exported = Exported()
    exported.add(1)

    def fail() -> Any:
        raise ValueError("no such certificate")

    sender = MetricSender(
        exported.page,
        MetricConfig(interval=60),
        {"otlp_proto_grpc": fail},
        exported.counters.rows[1].of(METRICS),
    )
    assert not sender.export()
