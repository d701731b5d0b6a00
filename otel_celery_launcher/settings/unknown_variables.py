# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Variables that are set and not handled, or misspelt: named at the start.

Imports nothing of OpenTelemetry. Runs in the launcher and in the doctor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.settings.standard_variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = frozenset(
    {
        "OTEL_CONFIG_FILE",
        "OTEL_PYTHON_METER_PROVIDER",
        "OTEL_PYTHON_TRACER_CONFIGURATOR",
        "OTEL_PYTHON_TRACER_PROVIDER",
    }
)

# Prefixes of variables that the SDK, its exporters and the instrumentations read
# (1.30 to 1.45), besides the rows of the table.
READ_BY_OTHERS = (
    "OTEL_RESOURCE_ATTRIBUTES_",  # the OpenTelemetry Operator's
    "OTEL_INSTRUMENTATION_",
    "OTEL_PYTHON_",
    "OTEL_SEMCONV_",
)

KNOWN = frozenset(row.name for row in VARIABLES)

# How near a name must be to a known one to be a misspelling: OTEL_EXPORTER_ENDPOINT is
# one (0.898), OTEL_SERVICE_NAMESPACE is none (0.87).
SPELT_ALIKE = 0.89


def unhandled_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that are set to anything but ``none``."""
    return tuple(
        name
        for name in sorted(environ)
        if name in NAMES and environ[name].strip().lower() not in ("", "none")
    )


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the ``OTEL_*`` names that nothing reads, each with the most similar name.

    The latter is empty if no known name is similar.
    """
    return {
        name: _nearest(name)
        for name in sorted(environ)
        if name.startswith("OTEL_")
        and name not in KNOWN
        and name not in NAMES
        and not name.startswith(READ_BY_OTHERS)
    }


def misspelt_notes(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each name that is near a known one."""
    return [
        f"{name} is not a variable that anything here reads; write {near}"
        for name, near in unknown_variables(environ).items()
        if near
    ]


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # most starts have no such name

    return next(iter(get_close_matches(name, KNOWN, 1, SPELT_ALIKE)), "")
