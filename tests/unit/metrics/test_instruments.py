"""The instruments: values as the SDK has them, and nothing raises."""

from __future__ import annotations

import enum
import os
import threading
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from otel_celery_launcher.metrics.instruments import Exemplars
from otel_celery_launcher.metrics.layout import (
    EXPONENT_BUCKETS,
    EXPONENT_LOWEST,
    SETS,
    exponent_bucket,
)
from otel_celery_launcher.metrics.observed import Observers
from otel_celery_launcher.metrics.page import MetricPage
from otel_celery_launcher.metrics.points import PointMaker
from otel_celery_launcher.metrics.provider import PageMeterProvider
from otel_celery_launcher.metrics.reader import PageReader
from otel_celery_launcher.metrics.writer import Writer


class Measured:
    """A provider of ours and what it has measured."""

    def __init__(
        self, exemplars: str = "trace_based", *, exponents: bool = False
    ) -> None:
        self.page = MetricPage()
        kept = Exemplars(exemplars)
        writer = Writer(self.page, has_exemplars=kept.are_kept)
        self.provider = PageMeterProvider(
            writer, Observers(writer, 60), kept, has_exponents=exponents
        )
        self.meter = self.provider.get_meter("scope", "1", "https://schema", {"k": 1})

    def points(self) -> dict[tuple[str, frozenset[Any]], Any]:
        """Return the SDK's points, by name and attributes."""
        totals = PageReader(self.page, 60).read_bounded(time.time_ns())
        maker = PointMaker(Resource({}), 2, 1)
        return {
            (metric.name, frozenset((point.attributes or {}).items())): point
            for chunks in maker.requests(totals)
            for resource in maker.data(chunks).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


VALUES = st.one_of(
    st.integers(0, 10**6), st.floats(0, 1e6, allow_nan=False, allow_subnormal=False)
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", 1, True]), max_size=2
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, ATTRIBUTES), min_size=1, max_size=30))
def test_values_are_those_of_the_sdk(measurements: list[tuple[Any, Any]]) -> None:
    """Sums, counts, buckets, extremes and kinds of numbers."""
    ours = Measured()
    reader = InMemoryMetricReader()
    theirs = MeterProvider([reader]).get_meter("scope")
    for meter in (ours.meter, theirs):
        counter, histogram = meter.create_counter("c"), meter.create_histogram("h")
        for amount, attributes in measurements:
            attributes = {k: str(v) for k, v in attributes.items()}
            counter.add(amount, attributes)
            histogram.record(amount, attributes)
    found = ours.points()
    data: Any = reader.get_metrics_data()
    assert data is not None
    expected = {
        (metric.name, frozenset(point.attributes.items())): point
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    assert found.keys() == expected.keys()
    for key, point in expected.items():
        for name in ("value", "sum", "min", "max"):
            if hasattr(point, name):
                assert getattr(found[key], name) == pytest.approx(getattr(point, name))
        if hasattr(point, "bucket_counts"):
            assert list(found[key].bucket_counts) == list(point.bucket_counts)
            assert found[key].count == point.count


def test_true_one_and_one_point_zero_are_three_series() -> None:
    measured = Measured()
    counter = measured.meter.create_counter("c")
    for value in (True, 1, 1.0, "1"):
        for _ in range(2):
            counter.add(1, {"a": value})
    totals = PageReader(measured.page, 60).read(1)
    (series,) = totals.values()
    assert sorted(total.value for total in series.values()) == [2, 2, 2, 2]


def test_nothing_that_is_no_number_raises_or_counts() -> None:
    measured = Measured()
    meter = measured.meter
    counter, gauge = meter.create_counter("c"), meter.create_gauge("g")
    histogram, up_down = meter.create_histogram("h"), meter.create_up_down_counter("u")
    for bad in ("one", None, float("nan"), float("inf"), object(), [1], 1j):
        counter.add(bad)
        gauge.set(bad)
        histogram.record(bad)
        up_down.add(bad)
    counter.add(-1)
    histogram.record(-1)
    counter.add(1, "no mapping")
    assert measured.points() == {}


def test_names_that_the_api_does_not_allow_measure_nothing() -> None:
    measured = Measured()
    for name in ("no name", "1st", "n" * 256, "", None, 7):
        measured.meter.create_counter(name).add(1)
        measured.meter.create_observable_gauge(name, [lambda _: []])
    measured.meter.create_histogram("h", unit="ü").record(1)
    assert measured.points() == {}


def test_the_same_instrument_is_made_once() -> None:
    meter = Measured().meter
    assert meter.create_counter("C") is meter.create_counter("c")
    assert meter.create_counter("c") is not meter.create_counter("c", unit="By")


def test_threads_lose_nothing() -> None:
    measured = Measured()
    counter = measured.meter.create_counter("c")

    def work() -> None:
        for _ in range(20_000):
            counter.add(1, {"a": "b"})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (point,) = measured.points().values()
    assert point.value == 80_000


def test_sets_beyond_the_limit_are_one_point() -> None:
    measured = Measured()
    counter = measured.meter.create_counter("c")
    for _ in range(2):
        for number in range(SETS + 500):
            counter.add(1, {"n": number})
    points = measured.points()
    overflow = points["c", frozenset({("otel.metric.overflow", True)})]
    assert len(points) == SETS + 1
    assert overflow.value == 1000


def test_sets_of_several_processes_are_bounded_together_and_stay() -> None:
    measured = Measured()
    counter = measured.meter.create_counter("c")
    kept: set[Any] = set()
    points: dict[Any, Any] = {}
    for part in range(3):
        pid = os.fork()
        if pid == 0:
            for number in range(900):
                counter.add(1, {"n": part * 900 + number})
            os._exit(0)
        os.waitpid(pid, 0)
        points = measured.points()
        own = {key for key, point in points.items() if point.value == 1}
        assert kept <= own
        kept = own
    assert sum(point.value for point in points.values()) == 2700
    assert len(points) <= SETS + 1


@pytest.mark.parametrize(
    ("name", "sampled", "outside"),
    [("trace_based", 1, 0), ("always_on", 1, 1), ("always_off", 0, 0)],
)
def test_exemplars(name: str, sampled: int, outside: int) -> None:
    measured = Measured(name)
    histogram = measured.meter.create_histogram("h")
    counter = measured.meter.create_counter("c")
    histogram.record(3)
    counter.add(1)
    assert all(len(each.exemplars) == outside for each in measured.points().values())
    tracer = TracerProvider().get_tracer("t")
    with tracer.start_as_current_span("inside") as span:
        histogram.record(3)
        counter.add(1)
    found = measured.points()
    for point in found.values():
        assert len(point.exemplars) == sampled
        for exemplar in point.exemplars:
            assert exemplar.trace_id == span.get_span_context().trace_id
            assert exemplar.span_id == span.get_span_context().span_id
    assert not any(each.exemplars for each in measured.points().values()), "taken"


@given(st.floats(2.0**-23, 2.0**39))
def test_exponential_buckets_are_where_they_should_be(value: float) -> None:
    number = exponent_bucket(value) + EXPONENT_LOWEST
    assert 2 ** (number / 8) <= value * (1 + 1e-9)
    assert value <= 2 ** ((number + 1) / 8) * (1 + 1e-9)


def test_exponential_histograms_have_a_hundred_and_sixty_buckets_at_most() -> None:
    measured = Measured(exponents=True)
    histogram = measured.meter.create_histogram("h")
    amounts = [0, 0, *(2.0**power for power in range(-30, 45))]
    for amount in amounts:
        histogram.record(amount)
    (point,) = measured.points().values()
    assert point.count == len(amounts)
    assert point.zero_count == 2
    assert sum(point.positive.bucket_counts) == len(amounts) - 2
    assert len(point.positive.bucket_counts) <= 160
    assert exponent_bucket(1e300) == EXPONENT_BUCKETS - 1


def test_a_gauge_is_the_last_value_of_the_living() -> None:
    measured = Measured()
    gauge = measured.meter.create_gauge("g")
    gauge.set(1)
    pid = os.fork()
    if pid == 0:
        gauge.set(2.5)
        os._exit(0)
    os.waitpid(pid, 0)
    (point,) = measured.points().values()
    assert point.value == 1


def test_an_up_down_counter_is_the_sum_of_the_living() -> None:
    measured = Measured()
    up_down = measured.meter.create_up_down_counter("u")
    up_down.add(5)
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            up_down.add(3)
            os._exit(0)
        os.waitpid(pid, 0)
        (point,) = measured.points().values()
        assert point.value == 5


def test_all_is_known_to_a_successor() -> None:
    """A page that was full of one process's series is read and continued by the next."""
    measured = Measured()
    counters = [measured.meter.create_counter(f"c{number}") for number in range(30)]
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            for counter in counters:
                for number in range(20):
                    counter.add(1, {"n": str(number), "text": "x" * 100})
            os._exit(0)
        os.waitpid(pid, 0)
    points = measured.points()
    assert len(points) == 600
    assert {point.value for point in points.values()} == {3}
    assert len(measured.page.rows(1)) == 1


def test_integers_that_otlp_does_not_have_are_floats() -> None:
    measured = Measured()
    counter, gauge = (
        measured.meter.create_counter("c"),
        measured.meter.create_gauge("g"),
    )
    for _ in range(3):
        counter.add(2**62)
    gauge.set(2**63)
    for point in measured.points().values():
        assert isinstance(point.value, float)
    data = encode(measured)
    assert data


def test_texts_of_scopes_and_units_are_cleaned() -> None:
    class Unit(str, enum.Enum):
        SECONDS = "s"

    measured = Measured()
    meter = measured.provider.get_meter(
        "\ud800", "\ud800", "\ud800", {"\ud800": "\ud800"}
    )
    meter.create_counter("c", unit=Unit.SECONDS, description="\ud800").add(1)
    assert len(measured.points()) == 1
    assert encode(measured)


def encode(measured: Measured) -> bytes:
    """Return what OTLP makes of it."""
    totals = PageReader(measured.page, 60).read_bounded(time.time_ns())
    maker = PointMaker(Resource({}), 2, 1)
    requests = [maker.data(chunks) for chunks in maker.requests(totals)]
    return b"".join(encode_metrics(each).SerializeToString() for each in requests)


def test_a_decimal_changes_nothing() -> None:
    measured = Measured()
    histogram = measured.meter.create_histogram("h")
    histogram.record(Decimal("0.5"))
    histogram.record(10**400)
    assert measured.points() == {}


def test_what_a_callback_does_not_say_any_more_is_forgotten() -> None:
    measured = Measured()
    said = [
        [Observation(3, {"a": "x"}), Observation(4, {"a": "y"})],
        [Observation(5, {"a": "x"})],
    ]
    measured.meter.create_observable_gauge("g", [lambda _: said.pop(0)])
    writer = measured.provider.writer
    writer.prepare()
    observers = measured.provider.observers
    observers.observe(5)
    later = time.time_ns() + int(200e9)
    observers.observe(5)
    reader = PageReader(measured.page, 60)
    now = {
        total.items: total.value
        for series in reader.read(time.time_ns()).values()
        for total in series.values()
    }
    assert now == {(("a", "x"),): 5, (("a", "y"),): 4}
    assert reader.read(later) == {}


def test_a_page_that_is_full_still_counts_everything() -> None:
    """What finds no room of its own is one point; built-in metrics have room."""
    measured = Measured()
    page = measured.page
    counter = measured.meter.create_counter("c")
    counter.add(1, {"n": "first"})
    while page.add_segment(4000, 0, is_needed=False) > 0:
        pass
    for number in range(1000):
        counter.add(1, {"n": str(number), "text": "x" * 200})
    points = measured.points()
    assert sum(point.value for point in points.values()) == 1001
    assert ("c", frozenset({("otel.metric.overflow", True)})) in points
    ours = measured.provider.get_meter("otel_celery_launcher").create_counter("ours")
    for number in range(200):
        ours.add(1, {"n": str(number), "text": "y" * 200})
    assert (
        sum(p.value for (name, _), p in measured.points().items() if name == "ours")
        == 200
    )
