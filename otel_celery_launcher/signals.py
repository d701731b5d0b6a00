# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The signals of OpenTelemetry: one row of data for each.

Imports nothing. Besides its row, a signal has code on both sides of the channel: in the
worker a front, which the SDK calls (``telemetry/traces.py``), and in the exporter
process a function that decodes its frames (``Signal.decoder``).
"""

from __future__ import annotations

from typing import NamedTuple


class Signal(NamedTuple):
    """One kind of telemetry.

    Attributes:
        number: In each datagram, and of its figures in a row of the counters; from 1.
        name: As in OTEL_<NAME>_EXPORTER and OTEL_EXPORTER_OTLP_<NAME>_*, in small letters.
        items: Its items in the plural, for log lines: ``spans``.
        path: The URL path for OTLP/HTTP.
        decoder: ``module:function`` that makes an item from a resource and a frame.
            Only the exporter process imports it. Empty for a signal that sends no
            messages.
        batch: How many items are exported at once, at most.
    """

    number: int
    name: str
    items: str
    path: str
    decoder: str
    batch: int = 512

    @property
    def exporter_group(self) -> str:
        """The entry point group of its exporters."""
        return f"opentelemetry_{self.name}_exporter"


TRACES = Signal(
    number=1,
    name="traces",
    items="spans",
    path="/v1/traces",
    decoder="otel_celery_launcher.ipc.span_decoder:read_span",
)

# Metrics are no messages: they lie in shared memory (``metrics/page.py``).
METRICS = Signal(
    number=2,
    name="metrics",
    items="metrics",
    path="/v1/metrics",
    decoder="",
)

LOGS = Signal(
    number=3,
    name="logs",
    items="log records",
    path="/v1/logs",
    decoder="otel_celery_launcher.ipc.log_frames:read_log",
    batch=2048,  # they are smaller than spans, and an export costs 1.4 ms besides
)

SIGNALS = (TRACES, METRICS, LOGS)
