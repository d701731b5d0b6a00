# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery bootstrap``: which instrumentations fit what is installed here.

Upstream's ``opentelemetry-bootstrap`` installs what fits each library, and moves the
pins of an application without a word. Here pip is asked first what it would do with
everything that is installed held as it is. Runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from packaging.requirements import Requirement

from otel_celery_launcher.bootstrap.installed_packages import Packages
from otel_celery_launcher.compat import contrib_bootstrap
from otel_celery_launcher.errors import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from collections.abc import Sequence

# How long pip may look.
PIP_SECONDS = 300

# What fits a library that is there, and is not proposed; with the reason.
NOT_PROPOSED = {
    "opentelemetry-instrumentation-asgi": "comes with that of your framework",
    "opentelemetry-instrumentation-celery": "is here already",
    "opentelemetry-instrumentation-click": "would make Celery's command line a span",
    "opentelemetry-instrumentation-grpc": "is for grpcio, which our exporter brings",
    "opentelemetry-instrumentation-logging": "otel-celery adds the ids itself",
    "opentelemetry-instrumentation-structlog": "is for logs",
    "opentelemetry-instrumentation-system-metrics": "is for metrics",
    "opentelemetry-instrumentation-urllib3": "would repeat what that of requests records",
    "opentelemetry-instrumentation-wsgi": "comes with that of your framework",
}

# A library of these says nothing about the one that is instrumented.
_MISLEADING_LIBRARIES = frozenset({"pydantic"})

# Proposed with every library: keeps the context of a request in thread pools.
_ALWAYS = ("opentelemetry-instrumentation-threading",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An instrumentation that fits a library."""

    package: str  # name==release
    library: str  # name and release, as installed
    modules: frozenset[str] = frozenset()  # that it is imported by; empty: not known

    @property
    def name(self) -> str:
        """The name of the package."""
        return Requirement(self.package).name


def proposals(packages: Packages) -> list[Proposal]:
    """Return what fits and is not here yet, of one release of OpenTelemetry's."""
    by_name: dict[str, Proposal] = {}
    for library, package in contrib_bootstrap.known_instrumentations():
        wanted, name = Requirement(library), Requirement(package).name
        if name in by_name or name in NOT_PROPOSED or packages.version(name):
            continue
        if wanted.name not in _MISLEADING_LIBRARIES and packages.satisfies(wanted):
            release = f"{wanted.name} {packages.version(wanted.name)}"
            by_name[name] = Proposal(
                package=package,
                library=release,
                modules=packages.modules(wanted.name),
            )
    for package in contrib_bootstrap.default_instrumentations():
        name = Requirement(package).name
        if name in _ALWAYS and not packages.version(name):
            by_name[name] = Proposal(package=package, library="Python's threads")
    return sorted(by_name.values(), key=lambda each: each.name)


class Pip:
    """pip of this environment, which keeps all that is installed as it is.

    Args:
        packages: What is installed.
    """

    def __init__(self, packages: Packages) -> None:
        self._packages = packages

    def install(self, wanted: Sequence[str], *options: str) -> str:
        """Install packages; return what pip says against it, empty where it did so."""
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / "pins.txt"
            pins.write_text("\n".join(self._packages.pins()))
            done = _run(
                [
                    sys.executable,
                    *("-m", "pip", "install", "--quiet", "--no-input"),
                    *("--disable-pip-version-check", "--constraint", str(pins)),
                    *options,
                    *wanted,
                ]
            )
        if done is None:
            return f"pip has found no answer within {PIP_SECONDS} s"
        if not done.returncode:
            return ""
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR: ")]
        said = errors or lines or [f"it ends with status {done.returncode}"]
        if "Could not find a version" in said[0]:
            return "it was not published with this release of OpenTelemetry"
        return said[0].removeprefix("ERROR: ")

    def refuses(self, wanted: Sequence[str]) -> str:
        """Return why packages should not be installed; nothing is installed."""
        return self.install(wanted, "--dry-run")


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Run pip; None if it takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None


@click.command(name="bootstrap")
@click.option("--dry-run", is_flag=True, help="Install nothing, which is the default.")
@click.option("--install", "installs", is_flag=True, help="Install what fits.")
def bootstrap(*, dry_run: bool, installs: bool) -> None:
    """Show which instrumentations fit what is installed here, and break no pin."""
    packages = Packages()
    proposed = proposals(packages)
    if not proposed:
        print("Nothing to add: each library here has its instrumentation, or has none.")  # noqa: T201
        sys.exit(EXIT_OK)
    if find_spec("pip") is None:
        for each in proposed:
            _line("fits", each, "")
        print("\npip is not in this environment, so nothing was tried with its pins.")  # noqa: T201
        sys.exit(EXIT_OK)
    pip = Pip(packages)
    fitting, refused = _sort(pip, proposed)
    for each in fitting:
        _line("fits", each, "")
    for each, reason in refused:
        _line("leave", each, reason)
    if not fitting:
        sys.exit(EXIT_OK)
    wanted = [each.package for each in fitting]
    print(f"\npip install {' '.join(map(repr, wanted))}")  # noqa: T201
    if dry_run or not installs:
        sys.exit(EXIT_OK)
    if problem := pip.install(wanted):
        print(f"pip has not installed them: {problem}")  # noqa: T201
        sys.exit(EXIT_FAILED)
    print("Installed. `otel-celery doctor` looks at the whole environment.")  # noqa: T201
    sys.exit(EXIT_OK)


def _line(verdict: str, proposal: Proposal, reason: str) -> None:
    text = f"{verdict:6} {proposal.package}  for {proposal.library}"
    print(f"{text}: {reason}" if reason else text)  # noqa: T201


def _sort(
    pip: Pip, proposed: Sequence[Proposal]
) -> tuple[list[Proposal], list[tuple[Proposal, str]]]:
    """Return what can be installed together, and what cannot, with pip's reason."""
    if not pip.refuses([each.package for each in proposed]):
        return list(proposed), []
    fitting: list[Proposal] = []
    refused: list[tuple[Proposal, str]] = []
    for each in proposed:
        reason = pip.refuses([*(one.package for one in fitting), each.package])
        if reason:
            refused.append((each, reason))
        else:
            fitting.append(each)
    return fitting, refused


def main(arguments: Sequence[str]) -> NoReturn:
    """Propose and leave with 0, or 1 where pip has not installed what fits.

    Args:
        arguments: What follows ``bootstrap``.
    """
    bootstrap.main(list(arguments), prog_name="otel-celery bootstrap")
