# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Instrumentations: Celery's, and all other installed ones.

Runs once in each interpreter, before the application is imported.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

from otel_celery_launcher.tasks.spans import instrument_celery

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from otel_celery_launcher.settings import Settings

# Django's wants the settings imported before the application has named them, and there
# are no web requests in a worker.
WEB_ONLY_INSTRUMENTATIONS = frozenset({"django"})


def instrument(settings: Settings) -> tuple[list[str], list[str]]:
    """Turn on Celery's instrumentation and all other installed ones.

    Returns:
        The names that are on, and a line for each that is off against expectation.
    """
    disabled = settings.disabled_instrumentations
    on: list[str] = []
    off: list[str] = []
    if "*" in disabled:
        return on, off
    for entry_point in sorted(entry_points(group="opentelemetry_instrumentor")):
        name = entry_point.name
        if name in disabled or name in WEB_ONLY_INSTRUMENTATIONS:
            continue
        try:
            if name == "celery":
                instrument_celery(settings.tasks)
            elif not _instrument_one(entry_point):
                continue
        except Exception as exc:  # noqa: BLE001 - a stranger's code, at start
            off.append(
                f"the instrumentation {name} is off: {type(exc).__name__}: {exc}"
            )
        else:
            on.append(name)
    return on, off


def _instrument_one(entry_point: EntryPoint) -> bool:
    distribution = entry_point.dist
    if distribution is not None and get_dist_dependency_conflicts(distribution):
        return False  # its library is not installed, or another version
    instrumentor = entry_point.load()()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(skip_dep_check=True)
    return True
