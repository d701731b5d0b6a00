# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the collector takes metrics and log records: one of each, ``otel_celery.doctor``."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.failures import explain
from otel_celery_launcher.doctor.findings import OK, WARN, Finding
from otel_celery_launcher.settings.advice import printable_endpoint
from otel_celery_launcher.signals import LOGS, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_celery_launcher.delivery.answers import Answer
    from otel_celery_launcher.settings.settings import Settings
    from otel_celery_launcher.signals import Signal

NAME = "otel_celery.doctor"

# Handlers of these packages export what they get.
_EXPORTING = ("opentelemetry.", "ddtrace.", "logfire.", "loki.")

# The SDK's own way, under ``opentelemetry-instrument`` alone.
AUTO_INSTRUMENTATION = "opentelemetry.instrumentation.auto_instrumentation"
AUTO_LOGGING = "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED"


@dataclass(frozen=True, slots=True)
class _Check:
    """What is sent of a signal, and the ids of what may be wrong."""

    signal: Signal
    item: str
    make: Callable[[str], Any]
    unsupported: str
    failed: str


def check_further_signals(settings: Settings, seconds: float) -> Iterator[Finding]:
    """Send a point and a log record as a worker would, where they go to a collector.

    Args:
        settings: As a worker would have them.
        seconds: The longest time each may take.
    """
    for check in _CHECKS:
        if check.signal is not LOGS or settings.exports_logs:  # off unless asked for
            yield _check(check, settings, seconds)


def _check(check: _Check, settings: Settings, seconds: float) -> Finding:
    signal, name = settings.signals[check.signal], check.signal.name
    if not signal.sends_otlp:
        names = ", ".join(signal.exporters) or "none"
        return Finding(level=OK, check=name, seen=f"no OTLP exporter: {names}")
    address = printable_endpoint(signal.endpoint)
    answer = _send(check, settings, seconds)
    number = check.failed
    if answer is None:
        seen = f"{address} did not answer a test {check.item} within {seconds:g} s"
        advice = "look whether the collector is overloaded"
    elif not answer.error:
        return Finding(level=OK, check=name, seen=f"{address} accepted a {check.item}")
    elif answer.is_unsupported:
        number = check.unsupported
        seen = f"{address} takes no {name}: {answer.error}"
        advice = (
            f"OTEL_{name.upper()}_EXPORTER=none, or a {name} pipeline in the collector"
        )
    else:
        failure = explain(answer.error, signal.printable_path)
        seen = f"{address} did not accept a test {check.item}: {failure.reason}"
        advice = failure.advice
    return Finding(level=WARN, id=number, check=name, seen=seen, next=advice)


def _send(check: _Check, settings: Settings, seconds: float) -> Answer | None:
    """Send one; return what the collector has answered, None for nothing."""
    from otel_celery_launcher.delivery.answers import Answer, Verdict
    from otel_celery_launcher.delivery.deadline import run_with_deadline
    from otel_celery_launcher.delivery.export_log import error_text
    from otel_celery_launcher.delivery.exporters import load_exporters

    names = settings.signals[check.signal].exporters
    makers, problems = load_exporters(check.signal, names, redacts_exceptions=False)
    if problems:
        return Answer(Verdict.REFUSED, problems[0])
    answers: list[Answer] = []

    def send() -> None:
        for name, make in makers.items():
            if not name.startswith("otlp_"):
                continue
            try:
                exporter = make()
                answers.append(exporter.send(check.make(settings.service_name)))
                exporter.shutdown()
            except Exception as exc:  # noqa: BLE001 - the boundary: any exporter
                answers.append(Answer(Verdict.REFUSED, error_text(exc)))

    run_with_deadline([send], seconds)
    return next((each for each in answers if each.error), next(iter(answers), None))


def _point(service_name: str) -> Any:
    """Return a gauge with one point."""
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.metrics.layout import Description, Kind
    from otel_celery_launcher.metrics.points import PointMaker
    from otel_celery_launcher.metrics.reader import Total

    now = time.time_ns()
    gauge = Description(Kind.GAUGE, NAME, "1", "A test point.")
    resource = Resource.create({"service.name": service_name})
    totals = {gauge: {b"": Total((), now, 1.0, now)}}
    maker = PointMaker(resource, now, now)
    (chunks,) = maker.requests(totals)
    return maker.data(chunks)


def _record(service_name: str) -> Any:
    """Return a batch of one log record, outside of any trace."""
    from opentelemetry.sdk.resources import Resource

    from otel_celery_launcher.compat.log_records import new_record
    from otel_celery_launcher.ipc.log_frames import LogItem
    from otel_celery_launcher.logs.reader import severity_of

    severity = severity_of(logging.INFO)
    item = LogItem(
        NAME, time.time_ns(), severity, "INFO", "A test record.", 0, 0, 0, {}
    )
    return [new_record(item, Resource.create({"service.name": service_name}))]


_CHECKS = (
    _Check(METRICS, "point", _point, "OC331", "OC332"),
    _Check(LOGS, "log record", _record, "OC333", "OC334"),
)


def check_log_paths(settings: Settings) -> list[Finding]:
    """Look for a second way by which log records leave; the application is imported."""
    if not settings.exports_logs:
        return []
    paths = [*_exporting_handlers()]
    is_instrumented = AUTO_INSTRUMENTATION in sys.modules
    if is_instrumented and os.environ.get(AUTO_LOGGING, "").lower() == "true":
        paths.append(f"{AUTO_LOGGING} is true under opentelemetry-instrument")
    return [
        Finding(
            level=WARN,
            id="OC335",
            check="logs",
            seen=f"{path}: each line may leave twice",
            next="remove that, or OTEL_LOGS_EXPORTER=none",
        )
        for path in paths
    ]


def _exporting_handlers() -> Iterator[str]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        if not isinstance(logger, logging.Logger):
            continue
        for handler in logger.handlers:
            for kind in type(handler).__mro__:
                if kind.__module__.startswith(_EXPORTING):
                    name = f"{kind.__module__}.{kind.__name__}"
                    yield f"the logger {logger.name!r} has a {name}"
                    break
