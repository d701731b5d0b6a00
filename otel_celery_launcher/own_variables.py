# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A row of the table of settings, and the rows that are this launcher's own."""

from __future__ import annotations

from dataclasses import dataclass

from otel_celery_launcher import checks, task_checks
from otel_celery_launcher.checks import Check
from otel_celery_launcher.task_settings import ARGUMENT_CHARACTERS


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
        "How spans leave: `process`, an exporter process beside the worker; `inline`, each process exports its own. `auto` is process for prefork, gevent and eventlet workers, inline otherwise; for programs under `exec` and `setup()` inline until their first fork, process from then on.",
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
        "OTEL_CELERY_LOG_FORMAT",
        "text, json",
        "text",
        "The form of the lines that otel-celery writes to standard error. `json`: an object a line; the start line has a field for each thing that it says. What goes into Celery's log has Celery's form.",
        checks.one_of("text", "json"),
        "text",
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
    Variable(
        "OTEL_CELERY_SAMPLE",
        "`glob=ratio`, separated by commas",
        "unset",
        "The share of traces that is kept, by task, where a trace begins with that task: its publish outside any request, or the run of a message without a trace. The first glob that fits decides; all else is `OTEL_TRACES_SAMPLER`'s. Example: `emails.*=0.1,health.*=0`.",
        task_checks.sample,
        "0 for that task",
    ),
    Variable(
        "OTEL_CELERY_TRACE",
        "parent, link",
        "parent",
        "`parent`: a run belongs to the trace of its publish. `link`: each run begins a trace of its own, linked to its publish. The baggage arrives in both.",
        checks.one_of("parent", "link"),
        "parent",
    ),
    Variable(
        "OTEL_CELERY_NEW_TRACE_TASKS",
        "globs, separated by commas",
        "unset",
        'Tasks whose runs are linked, as with `OTEL_CELERY_TRACE=link`: for those that publish themselves for ever, or fan out by thousands. One message asks for the same by `headers={"otel_celery_trace": "new"}`.',
        checks.text,
        "unset",
    ),
    Variable(
        "OTEL_CELERY_BAGGAGE_ATTRIBUTES",
        "names, separated by commas",
        "unset",
        "Entries of the baggage that become attributes of the same name on publish and run spans. Example: `tenant_id`.",
        task_checks.baggage_names,
        "its well-formed names",
    ),
    Variable(
        "OTEL_CELERY_CAPTURE_ARGS",
        "`glob` or `glob=characters`, separated by commas",
        "unset",
        f"Tasks whose arguments are told, as `celery.args` and `celery.kwargs`: what Celery itself shows of them (`argsrepr`), cut to so many characters, {ARGUMENT_CHARACTERS} unless said. Without it no argument and no result is ever in a span.",
        task_checks.capture,
        "its well-formed items",
    ),
    Variable(
        "OTEL_CELERY_CLIENT_ROOTS",
        "auto, always, never",
        "auto",
        "Whether a trace may begin with a call of a client: a query of a database, a command of Redis, a request to another service. `auto`: in web processes (`exec --role web`) and in tasks' processes, and not in beat, flower, schedulers, other programs and the worker's main process, where it is polling as a rule. Below another span it always is a span. This and the two variables below hold for the tracer provider of otel-celery, not for one that the application brings.",
        checks.one_of("auto", "always", "never"),
        "auto",
    ),
    Variable(
        "OTEL_CELERY_DB_SPANS",
        "outer, both",
        "outer",
        "A statement that the instrumentations of SQLAlchemy and of its driver both record: `outer`, SQLAlchemy's span alone; `both`, one of each.",
        checks.one_of("outer", "both"),
        "outer",
    ),
    Variable(
        "OTEL_CELERY_ROOT_SPANS_PER_SECOND",
        "number from 0 to 100000",
        "100",
        "How many traces a second one process may begin by spans of its own code or of clients, in the long run (ten seconds' worth at once). What is above is left out and counted. Requests, publishes and runs are not concerned. `0`: no bound.",
        checks.number(0, 100_000),
        "100",
        unit="traces a second",
    ),
    Variable(
        "OTEL_CELERY_PLUMBING",
        "boolean",
        "true",
        "`false`: Celery's own calls of its broker and result backend are no spans, also below a publish or a run. The application's own calls are.",
        checks.boolean,
        "false",
    ),
    Variable(
        "OTEL_CELERY_TASK_NAME_FROM",
        "`glob=argument`, separated by commas",
        "unset",
        "For applications with one task for everything: the value of one argument stands behind the task's name, `run/run_job nightly`, and in `celery.task.label`. The argument is a position or a name, with keys below it where it is a mapping or JSON. A text or a number of 100 characters at most, 1,000 different ones a process; else the name is as ever. Example: `run_job=0,execute_workload=0.ti.dag_id`.",
        task_checks.task_names,
        "its well-formed items",
    ),
    Variable(
        "OTEL_CELERY_EXCEPTION_MESSAGES",
        "boolean",
        "true",
        "`false`: no message of an exception leaves, in any span: neither in the status, nor in an event, nor in its stack trace, which keeps files, lines and functions.",
        checks.boolean,
        "false",
    ),
)
