# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery doctor``: collect the findings of every check, then print them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from otel_celery_launcher.checks import split_names
from otel_celery_launcher.doctor.application import check_application
from otel_celery_launcher.doctor.broker import check_broker
from otel_celery_launcher.doctor.endpoint import check_endpoint
from otel_celery_launcher.doctor.findings import (
    FAIL,
    OK,
    WARN,
    Finding,
    as_json,
    as_text,
    exit_status,
)
from otel_celery_launcher.doctor.installed import check_installed
from otel_celery_launcher.doctor.pool import check_pool
from otel_celery_launcher.doctor.variables import check_variables, sources_of
from otel_celery_launcher.doctor.workers import check_workers
from otel_celery_launcher.environ import load_env_files
from otel_celery_launcher.roles import GENERIC_MODULE_NAMES, read_command_line
from otel_celery_launcher.settings import Settings

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from otel_celery_launcher.roles import CommandLine

# Names that say nothing when there are hundreds of services.
_GENERIC_NAMES = GENERIC_MODULE_NAMES | {"config", "service", "project"}


@click.command(name="doctor")
@click.option("-A", "--app", default="", help="The application, as for Celery.")
@click.option("--role", default="worker", show_default=True, help="Whose settings.")
@click.option("-P", "--pool", default=None, help="The pool it will have.")
@click.option("--json", "is_json", is_flag=True, help="Print for a program.")
@click.option(
    "--wait",
    "seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1, 300),
    help="Seconds that each step may take.",
)
@click.pass_obj
def doctor(
    given: tuple[MutableMapping[str, str], Sequence[str]],
    app: str,
    role: str,
    pool: str | None,
    is_json: bool,
    seconds: float,
) -> None:
    """Tell whether tracing will work here; sends one span, one message."""
    environ, env_files = given
    words = [*(["-A", app] if app else []), role, *(["-P", pool] if pool else [])]
    command_line = read_command_line(words, environ)
    # What an application prints at its import, or a console exporter, is no finding.
    with redirect_stdout(sys.stderr):
        findings = examine(environ, command_line, app, env_files, seconds)
    print(as_json(findings) if is_json else as_text(findings))  # noqa: T201
    sys.exit(exit_status(findings))


def main(
    arguments: Sequence[str],
    env_files: Sequence[str],
    environ: MutableMapping[str, str],
) -> NoReturn:
    """Examine and leave with 0, 1 or 78.

    Args:
        arguments: What follows ``doctor``.
        env_files: Of ``--env-file`` before it.
        environ: Completed and corrected as a worker's start does.
    """
    doctor.main(
        list(arguments), prog_name="otel-celery doctor", obj=(environ, env_files)
    )


def examine(
    environ: MutableMapping[str, str],
    command_line: CommandLine,
    app: str,
    env_files: Sequence[str],
    seconds: float,
) -> list[Finding]:
    """Return the findings of all checks, in the order of a start."""
    before = dict(environ)
    role = command_line.role or ""
    problems = load_env_files(environ, role=role, workdir=None, env_files=env_files)
    files = [Path(".env"), Path(f".env.{role}"), *map(Path, env_files)]
    sources = sources_of(before, environ, files)
    found = check_installed()
    found += [Finding(level=WARN, check="files", seen=each) for each in problems]
    found += check_variables(environ, sources)
    if environ.get("OTEL_SDK_DISABLED") == "true":
        seen = "OTEL_SDK_DISABLED is true: nothing is traced"
        return [*found, Finding(level=WARN, check="disabled", seen=seen)]
    settings = Settings.from_environ(environ, command_line)
    found += _settings(settings, sources)
    found.append(_propagators(environ, sources))
    source = sources.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or sources.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "default"
    )
    found += check_endpoint(settings, environ, source, seconds)
    application, imported = check_application(app)
    found += application
    if role == "worker":
        found += check_pool(imported, command_line.pool, settings)
    return [*found, *_beyond(imported, seconds)]


def _propagators(environ: MutableMapping[str, str], sources: dict[str, str]) -> Finding:
    value = environ.get("OTEL_PROPAGATORS") or "tracecontext,baggage"
    source = sources.get("OTEL_PROPAGATORS", "default")
    missing = [
        name for name in ("tracecontext", "baggage") if name not in split_names(value)
    ]
    if not missing:
        seen = f"propagators {value}"
        return Finding(level=OK, check="export", seen=seen, source=source)
    return Finding(
        level=WARN,
        check="export",
        seen=f"OTEL_PROPAGATORS is {value!r}: {' and '.join(missing)} ends here",
        source=source,
        next="OTEL_PROPAGATORS=tracecontext,baggage",
    )


def _beyond(app: Any, seconds: float) -> list[Finding]:
    """Look at broker and workers of an application that imports."""
    if app is None:
        return []
    found = check_broker(app, seconds)
    if any(each.level == FAIL for each in found):
        return found
    return [*found, *check_workers(app, seconds)]


def _settings(settings: Settings, sources: dict[str, str]) -> list[Finding]:
    name = settings.service_name
    source = sources.get("OTEL_CELERY_SERVICE_NAME") or sources.get("OTEL_SERVICE_NAME")
    notes = [each for each in settings.notes if "service name" in each]
    stem = name.removesuffix(f"-{settings.role}")
    if stem in _GENERIC_NAMES:
        notes.append(
            f"the service name {name!r} says nothing: hundreds may be called so"
        )
    found = [
        Finding(
            level=WARN,
            check="service name",
            seen=note,
            source=source or "default",
            next="OTEL_SERVICE_NAME=<name> OTEL_CELERY_SERVICE_NAME='{name}-{role}'",
        )
        for note in notes
    ] or [Finding(level=OK, check="service name", seen=name, source=source or "")]
    seen = f"{settings.mode}, sampler {settings.sampler}"
    found.append(Finding(level=OK, check="export", seen=seen))
    others = [
        each
        for each in settings.notes
        if "service name" not in each and "endpoint" not in each
    ]
    found += [Finding(level=WARN, check="export", seen=each) for each in others]
    return found
