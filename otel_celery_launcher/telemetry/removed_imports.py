# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Imports that OpenTelemetry has removed: prints one line that says what to do.

The import fails as it does without otel-celery; the line precedes the traceback. Runs
in the process that imports the application.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_celery_launcher import messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# https://github.com/open-telemetry/opentelemetry-python: CHANGELOG, 1.22.0
ADVICE = {
    "opentelemetry.exporter.jaeger": (
        "the application imports opentelemetry.exporter.jaeger, which ended with"
        " OpenTelemetry 1.21: expected no Jaeger exporter; the import fails; delete it"
        " and what uses it, otel-celery sends OTLP, which Jaeger takes on port 4317"
    ),
}


class _GoneFinder:
    """The last of the finders: asked for what no other has found."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleType | None:
        """Find nothing, and say why."""
        if name in ADVICE and name not in self._said:
            self._said.add(name)
            messages.say(ADVICE[name])
        return None


def advise_on_imports() -> None:
    """Advise from here on (launcher, spawned child, program under exec)."""
    sys.meta_path.append(_GoneFinder())  # type: ignore[arg-type]
