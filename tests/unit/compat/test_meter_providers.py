"""Private names of the metrics API and SDK: each is there, and does what we need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import metrics
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from otel_celery_launcher.compat.meter_providers import Gauge, serve_reader

REPLACES = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_celery_launcher.compat.meter_providers import (
    has_meter_provider, let_application_replace,
)
early = metrics.get_meter("early")
assert not has_meter_provider()
metrics.set_meter_provider(metrics.NoOpMeterProvider())
assert has_meter_provider()
replaced = []
let_application_replace(replaced.append)
reader = InMemoryMetricReader()
own = MeterProvider([reader])
from opentelemetry.metrics import set_meter_provider
set_meter_provider(own)
assert metrics.get_meter_provider() is own
assert replaced == [own]
metrics.get_meter("late").create_counter("c").add(1)
assert reader.get_metrics_data().resource_metrics
"""


def test_an_application_can_replace_a_provider_that_is_set() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLACES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not allowed" not in done.stderr


def test_the_api_has_a_gauge() -> None:
    assert issubclass(Gauge, metrics.Instrument)
    assert hasattr(_internal, "_PROXY_METER_PROVIDER")
    assert hasattr(_internal, "_METER_PROVIDER")


def test_a_reader_is_given_what_we_collect() -> None:
    reader = InMemoryMetricReader()
    given = MetricsData(resource_metrics=[])
    serve_reader(reader, lambda: given)
    assert reader.get_metrics_data() is given


def test_prometheus_serves_what_we_collect() -> None:
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus")
    reader = exporter.PrometheusMetricReader()
    asked: list[int] = []

    def collect() -> MetricsData:
        asked.append(1)
        return MetricsData(resource_metrics=[])

    serve_reader(reader, collect)
    reader.collect()
    assert asked
    reader.shutdown()
