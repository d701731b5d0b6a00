# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The standard variables of metrics and of logs, one row each: ``standard_variables.py``."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.settings import checks
from otel_celery_launcher.settings.batch_variables import batching
from otel_celery_launcher.settings.checks import split_names
from otel_celery_launcher.settings.launcher_variables import is_true
from otel_celery_launcher.settings.variable import Variable
from otel_celery_launcher.signals import LOGS, METRICS

# As upstream's handler of log records has them, and the numbers of ``logging``.
LOG_LEVELS = {
    "notset": 0,
    "debug": 10,
    "info": 20,
    "warn": 30,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "fatal": 50,
}

METRICS_EXPORTER = Variable(
    name="OTEL_METRICS_EXPORTER",
    kind="otlp, console, none, prometheus, or installed names",
    help="Where metrics go. Separate several by commas. `prometheus` is one `/metrics` for the whole worker, on `OTEL_EXPORTER_PROMETHEUS_HOST` and `OTEL_EXPORTER_PROMETHEUS_PORT`. Unset, metrics go where spans go by OTLP; where spans do not, or only `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set, they go nowhere.",
    check=checks.exporters(METRICS),
    parse=split_names,
    default_text="as `OTEL_TRACES_EXPORTER`, by OTLP",
    fallback="none",
    fallback_text="the known names, else none",
)

METRIC_INTERVAL = Variable(
    name="OTEL_METRIC_EXPORT_INTERVAL",
    kind="number from 100 to 86400000",
    help="Time between two exports of metrics.",
    check=checks.number(100, 86_400_000),
    parse=lambda text: float(text) / 1000,
    default="60000",
    unit="milliseconds",
)

METRIC_TIMEOUT = Variable(
    name="OTEL_METRIC_EXPORT_TIMEOUT",
    kind="number from 1 to 86400000",
    help="Longest time one export of metrics may take; `OTEL_EXPORTER_OTLP_TIMEOUT` may be shorter.",
    check=checks.number(1, 86_400_000),
    parse=lambda text: float(text) / 1000,
    default="30000",
    unit="milliseconds",
)

EXEMPLAR_FILTER = Variable(
    name="OTEL_METRICS_EXEMPLAR_FILTER",
    kind="trace_based, always_on, always_off",
    help="Which measurements may become exemplars, which lead from a point to a trace.",
    check=checks.one_of("trace_based", "always_on", "always_off"),
    parse=str,
    default="trace_based",
    fallback="always_off",
)

TEMPORALITY = Variable(
    name="OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    kind="cumulative, delta, lowmemory",
    help="Whether points count from the start of the worker or from the export before. `lowmemory`: delta for what the application counts and records, cumulative for what it is asked for.",
    check=checks.one_of("cumulative", "delta", "lowmemory"),
    parse=str,
    default="cumulative",
    fallback="cumulative",
)

HISTOGRAM_AGGREGATION = Variable(
    name="OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    kind="explicit_bucket_histogram, base2_exponential_bucket_histogram",
    help="Buckets of histograms: with fixed boundaries, or growing with the values.",
    check=checks.one_of(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
    ),
    parse=str,
    default="explicit_bucket_histogram",
    fallback="explicit_bucket_histogram",
)

LOGS_EXPORTER = Variable(
    name="OTEL_LOGS_EXPORTER",
    kind="otlp, console, none, or installed names",
    help="Where log records go, in addition to the local log. Separate several by commas.",
    check=checks.exporters(LOGS),
    parse=split_names,
    default="none",
    fallback="none",
    fallback_text="the known names, else none",
)

LOG_HANDLER_LEVEL = Variable(
    name="OTEL_PYTHON_LOG_HANDLER_LEVEL",
    kind="notset, debug, info, warn, warning, error, critical, fatal",
    help="Log records below this level do not leave; those below their logger's level never do.",
    check=checks.one_of(*LOG_LEVELS),
    parse=lambda text: LOG_LEVELS[text],
    default="notset",
    fallback="critical",
)

LOG_CODE_ATTRIBUTES = Variable(
    name="OTEL_PYTHON_LOG_CODE_ATTRIBUTES",
    kind="true, false",
    help="Log records have the file, line and function that wrote them as attributes.",
    check=checks.otel_boolean,
    parse=is_true,
    default="false",
    fallback="false",
)

LOG_QUEUE_SIZE, LOG_BATCH_SIZE, LOG_BATCHING = batching("BLRP", "log record")

LOG_VARIABLES: tuple[Variable[Any], ...] = (
    LOGS_EXPORTER,
    LOG_HANDLER_LEVEL,
    LOG_CODE_ATTRIBUTES,
    *LOG_BATCHING,
)

METRIC_VARIABLES: tuple[Variable[Any], ...] = (
    METRICS_EXPORTER,
    METRIC_INTERVAL,
    METRIC_TIMEOUT,
    EXEMPLAR_FILTER,
    TEMPORALITY,
    HISTOGRAM_AGGREGATION,
    Variable(
        name="OTEL_EXPORTER_PROMETHEUS_HOST",
        kind="address",
        help="Where `/metrics` listens (`OTEL_METRICS_EXPORTER=prometheus`).",
        check=checks.text,
        parse=str,
        default="localhost",
    ),
    Variable(
        name="OTEL_EXPORTER_PROMETHEUS_PORT",
        kind="whole number over 0, below 2^31",
        help="Its port. Two workers on a host need two.",
        check=checks.whole_number(1),
        parse=int,
        default="9464",
    ),
)
