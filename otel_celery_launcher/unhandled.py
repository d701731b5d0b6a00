# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Variables that are set and not handled: named at the start, never half applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Metrics and logs.
PREFIXES = (
    "OTEL_BLRP_",
    "OTEL_EXPORTER_OTLP_LOGS_",
    "OTEL_EXPORTER_OTLP_METRICS_",
    "OTEL_LOGRECORD_",
    "OTEL_METRIC_",
    "OTEL_METRICS_",
)
NAMES = frozenset(
    {
        "OTEL_CONFIG_FILE",
        "OTEL_LOGS_EXPORTER",
        "OTEL_PYTHON_TRACER_CONFIGURATOR",
        "OTEL_PYTHON_TRACER_PROVIDER",
    }
)


def unhandled_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that are set to anything but ``none``."""
    return tuple(
        name
        for name in sorted(environ)
        if (name in NAMES or name.startswith(PREFIXES))
        and environ[name].strip().lower() not in ("", "none")
    )
