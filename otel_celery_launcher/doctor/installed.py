# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed, and which combinations are known to be bad."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from otel_celery_launcher import __version__
from otel_celery_launcher.bootstrap.command import proposals
from otel_celery_launcher.bootstrap.installed_packages import Packages
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


def check_installed() -> list[Finding]:
    """Look at versions, known-bad releases, and requirements that do not hold."""
    names = ("celery", "opentelemetry-sdk", "opentelemetry-instrumentation-celery")
    releases = ", ".join(f"{name} {_version(name)}" for name in names)
    findings = [
        Finding(
            level=OK, check="versions", seen=f"otel-celery {__version__}, {releases}"
        )
    ]
    for name, versions, why, do in KNOWN_BAD:
        present = _version(name)
        if present and re.match(versions, present):
            seen = f"{name} {present} is installed: {why}"
            findings.append(
                Finding(level=FAIL, id="OC101", check="versions", seen=seen, next=do)
            )
    return findings + [
        Finding(
            level=FAIL,
            id="OC102",
            check="versions",
            seen=str(mismatch),
            next=f"pip install '{mismatch.wants}', or what brings both together",
        )
        for mismatch in _packages().mismatches()
    ]


def check_instrumentations(modules: set[str]) -> list[Finding]:
    """Name the libraries of an application that no installed instrumentation records.

    Args:
        modules: Names of the modules that the application imports.
    """
    roots = {name.partition(".")[0] for name in modules}
    missing = [
        each
        for each in proposals(_packages())
        if each.modules and roots.intersection(each.modules)
    ]
    if not missing:
        return []
    libraries = ", ".join(each.library for each in missing)
    return [
        Finding(
            level=WARN,
            id="OC103",
            check="application",
            seen=f"it uses {libraries}, whose calls are not recorded",
            next=f"pip install {' '.join(repr(each.package) for each in missing)}",
        )
    ]


@cache
def _packages() -> Packages:
    """Return what is installed, which takes a while to read."""
    return Packages()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
