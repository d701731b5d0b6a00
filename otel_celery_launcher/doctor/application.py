# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The application: does it import, and which OpenTelemetry code do we meet in it."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is met in code, and what becomes of it: docs/migrate.md.
MET = (
    (
        r"\bJaegerExporter\b|opentelemetry\.exporter\.jaeger",
        WARN,
        "imports the Jaeger exporter, which ended with OpenTelemetry 1.21",
        "delete it: Jaeger takes OTLP on port 4317",
    ),
    (
        r"[\"']traceparent[\"']",
        WARN,
        "writes traceparent headers by hand",
        "leave that to the propagator; a publish inside a span replaces them",
    ),
    (
        r"\bset_tracer_provider\(",
        OK,
        "sets a tracer provider of its own, which is kept beside ours",
        "",
    ),
    (
        r"\bCeleryInstrumentor\(\)\.instrument\(",
        OK,
        "instruments Celery itself, which does nothing under otel-celery",
        "",
    ),
    (
        r"\.add_span_processor\(",
        OK,
        "adds span processors, which run before spans are handed over",
        "",
    ),
    (
        r"\bSpanKind\.CONSUMER\b",
        OK,
        "opens CONSUMER spans of its own, which become children of the run's",
        "",
    ),
    (
        r"\bsentry_sdk\.init\(|^\s*(import|from) ddtrace\b",
        OK,
        "is traced by sentry-sdk or ddtrace, too, which goes on beside",
        "",
    ),
    (
        r"[\"'](otel_context|_otel)[\"']",
        OK,
        "carries trace contexts of its own, which are read",
        "",
    ),
)

# A module longer than this is data.
SOURCE_BYTES = 1_000_000


def check_application(app: str) -> tuple[list[Finding], Any]:
    """Import the application as Celery does; return findings, and it if it imports.

    Args:
        app: The value of ``-A``; empty for none.
    """
    if not app:
        seen = "not looked at: no -A"
        next_ = "otel-celery -A <app> doctor"
        return [Finding(level=WARN, check="application", seen=seen, next=next_)], None
    from celery.app.utils import find_app

    before = set(sys.modules)
    try:
        found = find_app(app)
        found.conf.worker_pool  # noqa: B018 - which reads the configuration
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a stranger's code
        return [
            Finding(
                level=FAIL,
                check="application",
                seen=f"{app} does not import: {type(exc).__name__}: {exc}",
                next=f"python -c 'import {app.partition(':')[0]}'",
            )
        ], None
    findings = [Finding(level=OK, check="application", seen=f"{app} imports")]
    for path in _sources(set(sys.modules) - before):
        findings += _met(path)
    return findings, found


def _sources(names: set[str]) -> Iterator[Path]:
    """Yield the files of modules that are the application's, not an installed one's."""
    for name in sorted(names):
        path = getattr(sys.modules.get(name), "__file__", None) or ""
        is_installed = "site-packages" in path or path.startswith(sys.base_prefix)
        if path.endswith(".py") and not is_installed and find_spec(name.split(".")[0]):
            yield Path(path)


def _met(path: Path) -> list[Finding]:
    try:
        text = path.read_text(errors="replace")[:SOURCE_BYTES]
    except OSError:
        return []
    return [
        Finding(level=level, check="application", seen=f"{path.name} {what}", next=do)
        for pattern, level, what, do in MET
        if re.search(pattern, text, re.MULTILINE)
    ]
