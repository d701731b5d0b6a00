# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery doctor``: collect the findings of every check, then print them."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from otel_celery_launcher.command_line import (
    ROLES,
    app_name,
    program_command_line,
    read_command_line,
)
from otel_celery_launcher.doctor.application import check_application
from otel_celery_launcher.doctor.examination import (
    WAIT_SECONDS,
    Examination,
    print_findings,
)
from otel_celery_launcher.doctor.findings import (
    Finding,
    as_json,
    exit_status,
)
from otel_celery_launcher.doctor.variables import (
    KNOWN_ROLES,
)
from otel_celery_launcher.settings.checks import safe_repr
from otel_celery_launcher.tail.output import prepare_output

if TYPE_CHECKING:
    from collections.abc import (
        MutableMapping,
        Sequence,
    )

    from otel_celery_launcher.command_line import CommandLine


def _check_role(_: click.Context, __: click.Parameter, role: str) -> str:
    """Accept a role that something runs in: a misspelt one would have no findings."""
    if role in KNOWN_ROLES or Path(f".env.{role}").is_file():
        return role
    raise click.BadParameter(
        f"it is {safe_repr(role)}: expected {', '.join(KNOWN_ROLES)}, or another role that"
        f" you give to `exec --role` and that has a file .env.{role} here"
    )


@click.command(name="doctor")
@click.option("-A", "--app", default="", help="The application, as for Celery.")
@click.option(
    "--role",
    default="worker",
    show_default=True,
    callback=_check_role,
    help="Whose settings: a role of Celery's, or the one that `exec --role` names.",
)
@click.option("-P", "--pool", default=None, help="The pool it will have.")
@click.option("--json", "is_json", is_flag=True, help="Print for a program.")
@click.option(
    "--wait",
    "seconds",
    default=WAIT_SECONDS,
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
    """Check whether tracing will work here; sends one span, one message."""
    environ, env_files = given
    command_line = _command_line(app, role, pool, environ)
    prepare_output()

    def look() -> tuple[list[Finding], Any]:
        return check_application(app, seconds, examination.give_up)

    examination = Examination(environ, command_line, look, env_files, seconds)
    if not is_json:
        sys.exit(print_findings(examination))
    out = sys.stdout
    findings: list[Finding] = []

    def give_up(finding: Finding) -> NoReturn:
        print(as_json([*findings, finding]), file=out, flush=True)
        os._exit(exit_status([*findings, finding]))

    examination.give_up = give_up
    # Keep output of the import, or of a console exporter, out of the JSON.
    with redirect_stdout(sys.stderr):
        findings.extend(examination.findings())
    print(as_json(findings))  # noqa: T201
    sys.exit(exit_status(findings))


def _command_line(
    app: str, role: str, pool: str | None, environ: MutableMapping[str, str]
) -> CommandLine:
    """Return the command line that a process of this role would have."""
    if role not in ROLES:
        return program_command_line(role, app_name(app))
    words = [*(["-A", app] if app else []), role, *(["-P", pool] if pool else [])]
    return read_command_line(words, environ)


def main(
    arguments: Sequence[str],
    env_files: Sequence[str],
    environ: MutableMapping[str, str],
) -> NoReturn:
    """Run the checks and exit with 0, 1 or 78.

    Args:
        arguments: The arguments after ``doctor``.
        env_files: Values of ``--env-file`` before ``doctor``.
        environ: The environment; completed and corrected as by a worker's start.
    """
    doctor.main(
        list(arguments), prog_name="otel-celery doctor", obj=(environ, env_files)
    )
