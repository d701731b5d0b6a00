# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``exec --doctor``: a program is run up to the start of Celery, and examined there.

Runs in the program, at its very start (``startup/sitecustomize.py``). The checks are
imported when the program has loaded its application, and patched what it patches.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from otel_celery_launcher.command_line import program_command_line
from otel_celery_launcher.compat import celery_private
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.doctor.status_file import (
    is_of,
    remove,
    status_file,
    statuses,
)

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def examine_at_the_start_of_celery(role: str, service: str) -> None:
    """Let the program load its application, then examine it instead of starting Celery.

    Args:
        role: Value of ``exec --role``.
        service: Default name of the service.
    """
    program = os.getpid()
    path = status_file(program)
    if is_of(program, path):  # also where it has executed itself anew
        atexit.register(remove, program, path)

    def examine(application: Any) -> NoReturn:
        status = examine_program(role, service, application, os.environ)
        sys.stdout.flush()
        os._exit(status)

    def fail_at_the_end() -> None:
        # Too late to import an exporter: nothing but this is looked at.
        if os.getpid() != program:
            return
        exit_statuses = statuses(path)
        status = max(exit_statuses) if exit_statuses else report_no_application()
        if status:  # else it is the program's own
            remove(program, path)
            os._exit(status)

    atexit.register(fail_at_the_end)
    celery_private.call_at_start(examine)


def examine_program(
    role: str, name: str, application: Any, environ: MutableMapping[str, str]
) -> int:
    """Print the findings inside a program below ``exec --doctor``; return the status.

    Args:
        role: Of ``exec --role``.
        name: Default name of the service.
        application: The Celery application that the program has loaded; None for none.
        environ: The environment that ``exec`` has completed from files and corrected.
    """
    from otel_celery_launcher.doctor.examination import (
        WAIT_SECONDS,
        Examination,
        print_findings,
    )

    def look() -> tuple[list[Finding], Any]:
        if application is None:
            seen = "not checked: a program of this role starts no worker and no beat"
            finding = Finding(level=WARN, id="OC406", check="application", seen=seen)
            return [finding], None
        seen = f"{application.main or 'it'} as the program has loaded it"
        return [Finding(level=OK, check="application", seen=seen)], application

    return print_findings(
        Examination(environ, program_command_line(role, name), look, (), WAIT_SECONDS)
    )


def report_no_application() -> int:
    """Print that the program started neither worker nor beat; return the status."""
    from otel_celery_launcher.doctor.report import print_report

    finding = Finding(
        level=FAIL,
        id="OC405",
        check="application",
        seen="not checked: the program has started no worker and no beat",
        next="read its output; it may have failed before",
    )
    return print_report([finding])
