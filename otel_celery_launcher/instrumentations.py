# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Instrumentations: Celery's, and all other installed ones.

Runs once in each interpreter, before the application is imported.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

from otel_celery_launcher.django import instrument_when_settings_are_there
from otel_celery_launcher.tasks.spans import instrument_celery

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from opentelemetry.instrumentation.dependencies import DependencyConflict

    from otel_celery_launcher.settings import Settings

# Where nothing handles web requests.
ROLES_WITHOUT_REQUESTS = frozenset({"worker", "beat"})


def instrument(settings: Settings) -> tuple[list[str], list[str], list[str]]:
    """Turn on Celery's instrumentation and all other installed ones.

    Returns:
        The names that are on; those that are off with the reason; and a line for each
        that is off because it failed.
    """
    disabled = settings.disabled_instrumentations
    on: list[str] = []
    off: list[str] = []
    failed: list[str] = []
    for entry_point in sorted(entry_points(group="opentelemetry_instrumentor")):
        name = entry_point.name
        if name in disabled or "*" in disabled:
            off.append(f"{name} (disabled)")
            continue
        try:
            reason = _instrument_one(entry_point, settings)
        except ModuleNotFoundError as exc:  # its library, which it only looks for now
            reason = f"no {exc.name}" if exc.name else str(exc)
        except Exception as exc:  # noqa: BLE001 - a stranger's code, at start
            failed.append(
                f"the instrumentation {name} is off: {type(exc).__name__}: {exc}"
            )
            continue
        if reason:
            off.append(f"{name} ({reason})")
        else:
            on.append(name)
    return on, off, failed


def _instrument_one(entry_point: EntryPoint, settings: Settings) -> str:
    """Turn one on; return why not, empty where it is on."""
    if entry_point.name == "celery":
        instrument_celery(settings.tasks)
        return ""
    distribution = entry_point.dist
    conflict = distribution and get_dist_dependency_conflicts(distribution)
    if conflict:
        return _reason(conflict)
    if entry_point.name == "django":
        if settings.role in ROLES_WITHOUT_REQUESTS:
            return "no requests here"
        instrument_when_settings_are_there(partial(_turn_on, entry_point))
    else:
        _turn_on(entry_point)
    return ""


def _reason(conflict: DependencyConflict) -> str:
    """Return why an instrumentation does not fit what is installed."""
    if not conflict.found:
        return "not installed"
    wanted = str(conflict.required).partition(";")[0]
    return f"{conflict.found} is installed, it wants {wanted}"


def _turn_on(entry_point: EntryPoint) -> None:
    instrumentor = entry_point.load()()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(skip_dep_check=True)
