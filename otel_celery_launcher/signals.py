# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The signals of OpenTelemetry: what differs by signal is a row of data here.

Imports nothing. A signal has a module on each side of the channel beside its row: in the
worker its front, which the SDK calls (``telemetry/traces.py``), and in the exporter
process the function that reads its frames (``Signal.decoder``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One kind of telemetry.

    Attributes:
        number: In each datagram, and of its figures in a row of the counters; from 1.
        name: As in OTEL_<NAME>_EXPORTER and OTEL_EXPORTER_OTLP_<NAME>_*, in small letters.
        items: What there is many of, for log lines: ``spans``.
        path: Where it goes by OTLP/HTTP.
        decoder: ``module:function`` that makes an item of a resource and a frame; imported
            by the exporter process alone.
    """

    number: int
    name: str
    items: str
    path: str
    decoder: str

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

SIGNALS = (TRACES,)
