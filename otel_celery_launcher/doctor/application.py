# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The application: does it import, and which OpenTelemetry code do we meet in it."""

from __future__ import annotations

import re
import signal
import sys
import sysconfig
import threading
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.doctor.findings import (
    FAIL,
    OK,
    WARN,
    Finding,
    without_secrets,
)
from otel_celery_launcher.doctor.installed import check_instrumentations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

# OpenTelemetry code in applications, and how otel-celery treats it: docs/migrate.md.
MET = (
    (
        r"\bJaegerExporter\b|opentelemetry\.exporter\.jaeger",
        WARN,
        "OC411",
        "imports the Jaeger exporter, which ended with OpenTelemetry 1.21",
        "delete it: Jaeger takes OTLP on port 4317",
    ),
    (
        r"[\"']traceparent[\"']",
        WARN,
        "OC412",
        "writes traceparent headers by hand",
        "leave that to the propagator; a publish inside a span replaces them",
    ),
    (
        r"\bset_tracer_provider\(",
        OK,
        "",
        "sets a tracer provider of its own, which is kept beside ours",
        "",
    ),
    (
        r"\bCeleryInstrumentor\(\)\.instrument\(",
        OK,
        "",
        "instruments Celery itself, which does nothing under otel-celery",
        "",
    ),
    (
        r"\.add_span_processor\(",
        OK,
        "",
        "adds span processors, which run before spans are handed over",
        "",
    ),
    (
        r"\bSpanKind\.CONSUMER\b",
        OK,
        "",
        "opens CONSUMER spans of its own, which become children of the run's",
        "",
    ),
    (
        r"\bsentry_sdk\.init\(|^\s*(import|from) ddtrace\b",
        OK,
        "",
        "is traced by sentry-sdk or ddtrace, too, which goes on beside",
        "",
    ),
    (
        r"[\"'](otel_context|_otel)[\"']",
        OK,
        "",
        "carries trace contexts of its own, which are read",
        "",
    ),
)

# An import may take this many times ``--wait``: real applications need 10 s and more.
IMPORT_STEPS = 6

# How long after the alarm an import that has not ended is given up.
ALARM_SECONDS = 1.0

OWN_FOLDER = str(Path(__file__).parent.parent)

# Python's own modules.
_LIBRARIES = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})

# A module longer than this is data.
SOURCE_BYTES = 1_000_000


def check_application(
    app: str, seconds: float, give_up: Callable[[Finding], object]
) -> tuple[list[Finding], Any]:
    """Import the application as Celery does; return findings and the application.

    Args:
        app: The value of ``-A``; empty for none.
        seconds: Value of ``--wait``; an import may take ``IMPORT_STEPS`` times as long.
        give_up: Ends the process with a finding, since C code may ignore the alarm.
    """
    if not app:
        seen = "not checked: no -A"
        return [_finding(WARN, "OC401", seen, "otel-celery -A <app> doctor")], None
    before = set(sys.modules)
    application, problem = _import_application(app, IMPORT_STEPS * seconds, give_up)
    if problem is not None:
        return [problem], None
    imported = set(sys.modules) - before
    findings = [Finding(level=OK, check="application", seen=f"{app} imports")]
    for path in _sources(imported):
        findings += _met(path)
    return [*findings, *check_instrumentations(imported)], application


def _import_application(
    app: str, limit: float, give_up: Callable[[Finding], object]
) -> tuple[Any, Finding | None]:
    """Return the application, or what keeps it from being imported."""
    from celery.app.utils import find_app

    next_ = f"python -c 'import {app.partition(':')[0]}'"

    def hanging(place: str) -> Finding:
        seen = f"{app} does not import within {limit:g} s: it is at {place}"
        do = "look at that line; it may wait for a server: --wait lets it wait longer"
        return _finding(FAIL, "OC404", seen, do)

    try:
        with _alarm(limit), _watchdog(limit, lambda line: give_up(hanging(line))):
            application = find_app(app)
            application.conf.worker_pool  # noqa: B018 - which reads the configuration
    except _HangingError as exc:
        return None, hanging(str(exc))
    except SystemExit as exc:
        seen = f"{app} ends the process at its import: {without_secrets(str(exc))}"
        return None, _finding(FAIL, "OC403", seen, next_)
    except Exception as exc:  # noqa: BLE001 - third-party code
        if (misnamed := _misnamed(app)) is not None:
            return None, misnamed
        message = without_secrets(f"{type(exc).__name__}: {exc}")
        seen = f"{app} does not import: {message}{_place(exc)}"
        return None, _finding(FAIL, "OC402", seen, next_)
    return application, None


def _finding(level: str, number: str, seen: str, next_: str) -> Finding:
    return Finding(level=level, id=number, check="application", seen=seen, next=next_)


def _misnamed(app: str) -> Finding | None:
    """Return a finding if the module exists but does not contain the application.

    Celery then reports that no module has the whole name.
    """
    from celery import Celery

    name, _, attribute = app.partition(":")
    module = sys.modules.get(name)
    if not attribute or module is None or hasattr(module, attribute):
        return None
    there = sorted(
        key for key, each in vars(module).items() if isinstance(each, Celery)
    )
    seen = (
        f"{name} has no {attribute!r}; applications in it: {', '.join(there) or 'none'}"
    )
    first = there[0] if there else "<app>"
    return _finding(FAIL, "OC407", seen, f"otel-celery -A {name}:{first} doctor")


class _HangingError(BaseException):
    """Raised in the middle of an import; no ``except Exception`` of third-party code catches it."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise ``_HangingError`` with the line that runs after a number of seconds."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(_: int, frame: FrameType | None) -> None:
        raise _HangingError(_own_line(frame))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _watchdog(seconds: float, bark: Callable[[str], object]) -> Iterator[None]:
    """Call ``bark`` with the running line if the alarm had no effect.

    A loop with a bare ``except`` swallows the exception; C code is not interrupted.
    """
    is_done = threading.Event()
    main = threading.main_thread().ident

    def watch() -> None:
        if not is_done.wait(seconds + ALARM_SECONDS):
            frames = sys._current_frames()  # noqa: SLF001 - documented, despite its name
            bark(_own_line(frames.get(main or 0)))

    threading.Thread(target=watch, name="otel-doctor-import", daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _own_line(frame: FrameType | None) -> str:
    """Return the innermost line of the application's that runs."""
    innermost = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"
    while frame is not None:
        if _is_own(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return innermost


def _place(exc: BaseException) -> str:
    """Return the innermost line of the application's that raised, if one did."""
    lines: list[str] = []
    cause: BaseException | None = exc
    while cause is not None and not lines:
        lines = [
            f"{frame.f_code.co_filename}:{line}"
            for frame, line in traceback.walk_tb(cause.__traceback__)
            if _is_own(frame.f_code.co_filename)
        ]
        cause = cause.__cause__ or cause.__context__
    return f" ({lines[-1]})" if lines else ""


def _is_own(path: str) -> bool:
    """Return whether a file is the application's, not an installed package's."""
    return not (
        path.startswith(("<", OWN_FOLDER, *_LIBRARIES))
        or "site-packages" in path
        or "dist-packages" in path
    )


def _sources(names: set[str]) -> Iterator[Path]:
    """Yield the files of modules that are the application's, not an installed one's."""
    for name in sorted(names):
        path = getattr(sys.modules.get(name), "__file__", None) or ""
        if path.endswith(".py") and _is_own(path) and find_spec(name.split(".")[0]):
            yield Path(path)


def _met(path: Path) -> list[Finding]:
    try:
        text = path.read_text(errors="replace")[:SOURCE_BYTES]
    except OSError:
        return []
    return [
        Finding(
            level=level,
            id=number,
            check="application",
            seen=f"{path.name} {what}",
            next=do,
        )
        for pattern, level, number, what, do in MET
        if re.search(pattern, text, re.MULTILINE)
    ]
