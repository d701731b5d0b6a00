# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A row of the table of settings, and the rows that are this launcher's own."""

from __future__ import annotations

from dataclasses import dataclass

from otel_celery_launcher import checks
from otel_celery_launcher.checks import Check


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: a variable, its type, default, unit and help, and its check."""

    name: str
    kind: str
    default: str
    help: str
    check: Check
    fallback: str
    unit: str = ""
    secret: bool = False


OWN = (
    Variable(
        "OTEL_CELERY_SERVICE_NAME",
        "template",
        "unset",
        "Service name for a fleet that shares one environment; `{role}` is the role, `{name}` is `OTEL_SERVICE_NAME` or `service.name`. Example: `{name}-{role}`.",
        checks.service_name_template,
        "unset",
    ),
    Variable(
        "OTEL_CELERY_EXPORT",
        "auto, process, inline",
        "auto",
        "How spans leave: `process`, an exporter process beside the worker; `inline`, each process exports its own. `auto` is process for prefork, gevent and eventlet workers, inline otherwise.",
        checks.one_of("auto", "process", "inline"),
        "auto",
    ),
    Variable(
        "OTEL_CELERY_SHUTDOWN_SECONDS",
        "number from 0 to 60",
        "5",
        "The longest time a stop may wait for spans to be delivered, over Celery's own. At most 0.5 where the collector was never reached.",
        checks.number(0, 60),
        "5",
        unit="seconds",
    ),
    Variable(
        "OTEL_CELERY_STRICT",
        "boolean",
        "false",
        "A bad value of any variable here ends the start with status 78 instead of falling back.",
        checks.boolean,
        "false",
    ),
    Variable(
        "OTEL_CELERY_HEALTH_FILE",
        "path; `%n` is the node's name, `%h` its full one",
        "unset",
        "A file for probes: touched when the worker is ready and every 2 seconds while it works, removed at its end.",
        checks.text,
        "unset",
    ),
    Variable(
        "OTEL_CELERY_ENV_FILE",
        f"paths, separated by `{checks.PATH_SEPARATOR}`",
        "unset",
        "The same as `--env-file`: files loaded whole. A missing one ends the start with status 78.",
        checks.text,
        "unset",
    ),
)
