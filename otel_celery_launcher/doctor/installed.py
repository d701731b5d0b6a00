# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed, and which combinations are known to be bad."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distributions, version

from otel_celery_launcher import __version__
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding

# Releases that hang or break: name, versions, why (with its source), what to do.
KNOWN_BAD = (
    (
        "grpcio",
        r"1\.78\.1$",
        "its calls hang (https://github.com/grpc/grpc/issues/41725)",
        "pip install 'grpcio!=1.78.1'",
    ),
    (
        "opentelemetry-exporter-jaeger",
        r".*",
        "it ended with OpenTelemetry 1.21; Jaeger takes OTLP on port 4317",
        "pip uninstall opentelemetry-exporter-jaeger",
    ),
    (
        "opentelemetry-exporter-jaeger-thrift",
        r".*",
        "it ended with OpenTelemetry 1.21; Jaeger takes OTLP on port 4317",
        "pip uninstall opentelemetry-exporter-jaeger-thrift",
    ),
)

# Released together: 1.x.y of these and 0.z of the instrumentations.
_STABLE = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-proto")


def check_installed() -> list[Finding]:
    """Look at versions, known-bad releases, and parts of different releases."""
    names = ("celery", "opentelemetry-sdk", "opentelemetry-instrumentation-celery")
    shown = ", ".join(f"{name} {_version(name)}" for name in names)
    found = [
        Finding(level=OK, check="versions", seen=f"otel-celery {__version__}, {shown}")
    ]
    for name, versions, why, do in KNOWN_BAD:
        present = _version(name)
        if present and re.match(versions, present):
            seen = f"{name} {present} is installed: {why}"
            found.append(Finding(level=FAIL, check="versions", seen=seen, next=do))
    return found + _skew()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _skew() -> list[Finding]:
    """Return a finding for each group of packages that are not of one release."""
    betas = {
        str(each.metadata["Name"]): each.version
        for each in distributions()
        if str(each.metadata["Name"]).startswith("opentelemetry-instrumentation")
    }
    stable = {name: _version(name) for name in _STABLE if _version(name)}
    found = []
    for group in (stable, betas):
        minors = {".".join(each.split(".")[:2]) for each in group.values()}
        if len(minors) > 1:
            newest = max(group.values(), key=_numbers)
            old = [name for name in group if _numbers(group[name]) < _numbers(newest)]
            found.append(
                Finding(
                    level=WARN,
                    check="versions",
                    seen="of different releases: "
                    + ", ".join(f"{name} {group[name]}" for name in sorted(group)),
                    next=f"pip install --upgrade {' '.join(sorted(old))}",
                )
            )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))
