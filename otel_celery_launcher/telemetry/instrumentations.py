# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Instrumentations: Celery's, and all other installed ones.

Runs once in each interpreter, before the application is imported. In a program that is
not Celery's each waits until the program has imported its library.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

import wrapt

from otel_celery_launcher import messages
from otel_celery_launcher.command_line import CELERY_ROLES
from otel_celery_launcher.telemetry.library_imports import modules_of, when_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint

    from opentelemetry.instrumentation.dependencies import DependencyConflict

    from otel_celery_launcher.settings.settings import Settings

# Always off, with the reason. `logging` adds a handler to the root logger (since
# 0.61b0, and before that with OTEL_PYTHON_LOG_CORRELATION=true). Celery and programs
# that find a handler there add none of their own, so the log would not be written any
# more.
LEFT_OFF = {"logging": "otel-celery adds the ids itself"}

# Loads Django's middlewares, once in each process that handles requests (Django 4.2 to 6).
_DJANGO_MODULE, _DJANGO_METHOD = (
    "django.core.handlers.base",
    "BaseHandler.load_middleware",
)


class LeftOff(NamedTuple):
    """An installed instrumentation that is off.

    Attributes:
        name: Name of its entry point.
        reason: The reason in a few words.
        is_surprising: Whether the user, having installed it, would expect its spans.
    """

    name: str
    reason: str
    is_surprising: bool = False


class Instrumented(NamedTuple):
    """What has become of the installed instrumentations.

    Attributes:
        on: The names of those that are on.
        off: Those that are off.
        failed: A line for each that is off because it failed.
    """

    on: list[str]
    off: list[LeftOff]
    failed: list[str]


def instrument(settings: Settings, on_celery: Callable[[], object]) -> Instrumented:
    """Turn on Celery's instrumentation and all other installed ones.

    Args:
        settings: Names the disabled ones.
        on_celery: Turns on Celery's.
    """
    disabled = settings.disabled_instrumentations
    result = Instrumented([], [], [])
    for entry_point in sorted(entry_points(group="opentelemetry_instrumentor")):
        name = entry_point.name
        if name in disabled or "*" in disabled:
            result.off.append(LeftOff(name, "disabled"))
            continue
        if name in LEFT_OFF:
            result.off.append(LeftOff(name, LEFT_OFF[name]))
            continue
        try:
            left_off = _instrument_one(entry_point, settings, on_celery)
        except ModuleNotFoundError as exc:  # its library, which it only looks for now
            left_off = LeftOff(name, f"no {exc.name}" if exc.name else str(exc))
        except Exception as exc:  # noqa: BLE001 - third-party code, at start
            result.failed.append(_failure(name, exc))
            continue
        if left_off is None:
            result.on.append(name)
        else:
            result.off.append(left_off)
    return result


def _instrument_one(
    entry_point: EntryPoint, settings: Settings, on_celery: Callable[[], object]
) -> LeftOff | None:
    """Turn one on; return why not, None where it is on."""
    name = entry_point.name
    if name == "celery":
        on_celery()
        return None
    # It takes 10 ms, which a worker without other instrumentations needs not wait.
    from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

    distribution = entry_point.dist
    conflict = distribution and get_dist_dependency_conflicts(distribution)
    if conflict:
        return _conflicting(name, conflict)
    turn_on = partial(_turn_on_late, entry_point)
    if name == "django":
        if settings.role in CELERY_ROLES:
            return LeftOff(name, "no requests here")
        _call_when_django_has_its_settings(turn_on)
    elif settings.is_program and (modules := modules_of(entry_point)):
        when_imported(modules, turn_on)
    else:
        _turn_on(entry_point)
    return None


def _conflicting(name: str, conflict: DependencyConflict) -> LeftOff:
    """Return why an instrumentation does not fit what is installed."""
    if not conflict.found:
        return LeftOff(name, "not installed")
    wanted = str(conflict.required).partition(";")[0].strip()
    reason = f"{conflict.found} is installed, it wants {wanted}"
    return LeftOff(name, reason, is_surprising=True)


def _failure(name: str, exc: Exception) -> str:
    return f"the instrumentation {name} is off: {type(exc).__name__}: {exc}"


def _turn_on_late(entry_point: EntryPoint) -> None:
    """Turn one on inside the application's own code, which sees no error of it."""
    try:
        _turn_on(entry_point)
    except Exception as exc:  # noqa: BLE001 - third-party code, in the program's import
        messages.say(_failure(entry_point.name, exc))


def _turn_on(entry_point: EntryPoint) -> None:
    instrumentor = entry_point.load()()
    if not instrumentor.is_instrumented_by_opentelemetry:
        with _root_logger_as_it_is(entry_point.name):
            instrumentor.instrument(skip_dep_check=True)


@contextmanager
def _root_logger_as_it_is(name: str) -> Iterator[None]:
    """Remove handlers that an instrumentation adds to the root logger.

    If it has a handler, neither ``logging.basicConfig`` nor Celery adds the one that
    writes the log, and Python's handler of last resort is not used.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        added = [handler for handler in root.handlers if handler not in handlers]
        for handler in added:
            root.removeHandler(handler)
        if added:
            root.setLevel(level)
            messages.say(
                f"the instrumentation {name} added a handler to the root logger, which"
                " would silence the log: the handler is removed; to keep it, call"
                " instrument() in the application"
            )


def _call_when_django_has_its_settings(turn_on: Callable[[], object]) -> None:
    """Turn Django's on before it loads its middlewares, whenever that is.

    It adds a middleware to the settings, which the application names long after the
    start. Runs in web processes; a worker handles no requests.
    """

    def load(wrapped: Any, _: Any, arguments: Any, named: Any) -> Any:
        turn_on()
        return wrapped(*arguments, **named)

    def when_imported(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, _DJANGO_METHOD, load)

    wrapt.register_post_import_hook(when_imported, _DJANGO_MODULE)
