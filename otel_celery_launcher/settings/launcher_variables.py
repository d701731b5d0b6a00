# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Variables of this launcher's own: ``OTEL_CELERY_*``, one row each.

The standard ones are in ``standard_variables.py``; ``docs/settings.md`` is written from
both.
"""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.settings import checks, tasks
from otel_celery_launcher.settings.checks import split_names
from otel_celery_launcher.settings.variable import Variable


def is_true(text: str) -> bool:
    """Return whether a checked boolean is true."""
    return text == "true"


SERVICE_NAME = Variable(
    name="OTEL_CELERY_SERVICE_NAME",
    kind="template",
    help="Service name for a fleet that shares one environment. `{role}` stands for the role, `{name}` for `OTEL_SERVICE_NAME` or `service.name`. Example: `{name}-{role}`.",
    check=checks.service_name_template,
    parse=str,
)

EXPORT = Variable(
    name="OTEL_CELERY_EXPORT",
    kind="auto, process, inline",
    help="How spans leave. `process`: through an exporter process beside the worker. `inline`: each process exports its own. `auto` chooses process for workers and inline for all others; programs under `exec` and `setup()` export inline until they first fork, and through an exporter process from then on.",
    check=checks.one_of("auto", "process", "inline"),
    parse=str,
    default="auto",
    fallback="auto",
)

SHUTDOWN_SECONDS = Variable(
    name="OTEL_CELERY_SHUTDOWN_SECONDS",
    kind="number from 0 to 60",
    help="Longest time a shutdown may wait for delivery, on top of Celery's own. It waits 0.5 seconds at most if the collector was never reached.",
    check=checks.number(0, 60),
    parse=float,
    default="5",
    unit="seconds",
)

STRICT = Variable(
    name="OTEL_CELERY_STRICT",
    kind="boolean",
    help="A bad value of any variable on this page ends the start with status 78 instead of falling back.",
    check=checks.boolean,
    parse=is_true,
    default="false",
    fallback="false",
)

LOG_FORMAT = Variable(
    name="OTEL_CELERY_LOG_FORMAT",
    kind="text, json",
    help="Format of the lines that otel-celery writes to standard error. `json` writes one object a line, and the start line has a field for each thing it says. Lines in Celery's log keep Celery's format.",
    check=checks.one_of("text", "json"),
    parse=str,
    default="text",
    fallback="text",
)

HEALTH_FILE = Variable(
    name="OTEL_CELERY_HEALTH_FILE",
    kind="path; `%n` is the node's name, `%h` its full one",
    help="A file for probes. The worker touches it when it is ready and every 2 seconds while it is healthy, and removes it on exit.",
    check=checks.text,
    parse=str,
)

SPOOL_DIRECTORY = Variable(
    name="OTEL_CELERY_SPOOL_DIRECTORY",
    kind="path",
    help="A directory in which the exporter process of a worker keeps what the collector has not taken, in one file. It outlives the worker; the next worker with the same directory sends it. It is made if it is not there, and only its owner may write to it. Without it, the queue is in memory, and ends with the worker.",
    check=checks.text,
    parse=str,
)

SPOOL_BYTES = Variable(
    name="OTEL_CELERY_SPOOL_BYTES",
    kind="number from 4194304 to 1099511627776",
    help="Size of a worker's file in the spool directory. The space is reserved when the file is made. When it is full, the oldest spans are dropped.",
    check=checks.number(4 * 2**20, 2**40),
    parse=lambda text: int(float(text)),
    default="67108864",
    unit="bytes",
)

QUEUE_METRICS = Variable(
    name="OTEL_CELERY_QUEUE_METRICS",
    kind="boolean",
    help="`false`: the broker is not asked how many messages and consumers its queues have (`celery.queue.messages`, `celery.queue.consumers`).",
    check=checks.boolean,
    parse=is_true,
    default="true",
    fallback="false",
)

INJECT = Variable(
    name="OTEL_CELERY_INJECT",
    kind="celery, python, none",
    help="Which programs an injected tree traces (inject.md). `celery`: Celery's commands, and programs that start a worker or beat. `python`: all others, too, such as web servers. `none`: no program.",
    check=checks.one_of("celery", "python", "none"),
    parse=str,
    default="celery",
    fallback="celery",
)

WEB_TOKEN = Variable(
    name="OTEL_CELERY_WEB_TOKEN",
    kind="text",
    help="What a browser has to show to the live page of `otel-celery tail --web`, and `top` to its `--endpoint`; the same as `--token` (tail.md). No other command reads it.",
    check=checks.text,
    parse=str,
    secret=True,
)

ENV_FILE = Variable(
    name="OTEL_CELERY_ENV_FILE",
    kind=f"paths, separated by `{checks.PATH_SEPARATOR}`",
    help="The same as `--env-file`: files that are loaded whole. If one is missing, the start ends with status 78.",
    check=checks.text,
    parse=str,
)

SAMPLE = Variable(
    name="OTEL_CELERY_SAMPLE",
    kind="`glob=ratio`, separated by commas",
    help="Sampling ratio by task name, applied only where a trace starts: at a publish outside any request, or at the run of a message without a trace. The first matching glob wins; everything else is left to `OTEL_TRACES_SAMPLER`. Example: `emails.*=0.1,health.*=0`.",
    check=tasks.sample,
    parse=tasks.ratios_of,
    fallback_text="0 for that task",
)

TRACE = Variable(
    name="OTEL_CELERY_TRACE",
    kind="parent, link",
    help="`parent`: a run belongs to the trace of its publish. `link`: each run starts its own trace, linked to its publish. Baggage arrives in both.",
    check=checks.one_of("parent", "link"),
    parse=str,
    default="parent",
    fallback="parent",
)

NEW_TRACE_TASKS = Variable(
    name="OTEL_CELERY_NEW_TRACE_TASKS",
    kind="globs, separated by commas",
    help='Tasks whose runs are linked as with `OTEL_CELERY_TRACE=link`. Use it for tasks that publish themselves forever or fan out by thousands. A single message asks for the same with `headers={"otel_celery_trace": "new"}`.',
    check=checks.text,
    parse=split_names,
)

BAGGAGE_ATTRIBUTES = Variable(
    name="OTEL_CELERY_BAGGAGE_ATTRIBUTES",
    kind="names, separated by commas",
    help="Baggage entries that become attributes of the same name on publish and run spans. Example: `tenant_id`.",
    check=tasks.baggage_names,
    parse=split_names,
    fallback_text="its well-formed names",
)

CAPTURE_ARGS = Variable(
    name="OTEL_CELERY_CAPTURE_ARGS",
    kind="`glob` or `glob=characters`, separated by commas",
    help=f"Tasks whose arguments are recorded as `celery.args` and `celery.kwargs`: Celery's own `argsrepr`, truncated to the given number of characters ({tasks.ARGUMENT_CHARACTERS} by default). Without it no argument and no result is ever recorded.",
    check=tasks.capture,
    parse=tasks.character_limits_of,
    fallback_text="its well-formed items",
)

CLIENT_ROOTS = Variable(
    name="OTEL_CELERY_CLIENT_ROOTS",
    kind="auto, always, never",
    help="Whether a trace may start with a client call: a database query, a Redis command, a request to another service. `auto` allows it in web processes (`exec --role web`) and where tasks run. It does not in beat, flower, schedulers, other programs and the worker's main process, which mostly poll. Below another span, a client call is always a span. This and the next two variables apply to otel-celery's tracer provider, not to one that the application brings.",
    check=checks.one_of("auto", "always", "never"),
    parse=str,
    default="auto",
    fallback="auto",
)

DB_SPANS = Variable(
    name="OTEL_CELERY_DB_SPANS",
    kind="outer, both",
    help="What to record if the instrumentations of SQLAlchemy and of its driver both see a statement. `outer`: SQLAlchemy's span alone. `both`: one span each.",
    check=checks.one_of("outer", "both"),
    parse=str,
    default="outer",
    fallback="outer",
)

ROOT_SPANS_PER_SECOND = Variable(
    name="OTEL_CELERY_ROOT_SPANS_PER_SECOND",
    kind="number from 0 to 100000",
    help="How many traces a second one process may start with spans of its own code or of clients, in the long run; ten seconds' worth may come at once. Traces above the limit are left out and counted. Requests, publishes and runs do not count. `0` means no limit.",
    check=checks.number(0, 100_000),
    parse=float,
    default="100",
    unit="traces a second",
)

PLUMBING = Variable(
    name="OTEL_CELERY_PLUMBING",
    kind="boolean",
    help="`false`: Celery's own calls to its broker and result backend are never spans, not even below a publish or a run. The application's own calls still are.",
    check=checks.boolean,
    parse=is_true,
    default="true",
    fallback="false",
)

TASK_NAME_FROM = Variable(
    name="OTEL_CELERY_TASK_NAME_FROM",
    kind="`glob=argument`, separated by commas",
    help="For applications with one task for everything: the value of one argument is appended to the task's name, as in `run/run_job nightly`, and recorded as `celery.task.label`. Give the argument by position or name, with keys below it if it is a mapping or JSON. The value must be a text or number of 100 characters at most, and one process keeps 1,000 different ones; otherwise the name stays as it is. Example: `run_job=0,execute_workload=0.ti.dag_id`.",
    check=tasks.task_names,
    parse=tasks.paths_of,
    fallback_text="its well-formed items",
)

EXCEPTION_MESSAGES = Variable(
    name="OTEL_CELERY_EXCEPTION_MESSAGES",
    kind="boolean",
    help="`false`: exception messages are removed from every span (its status, its events) and log record, and from their stack traces, which keep files, lines and functions.",
    check=checks.boolean,
    parse=is_true,
    default="true",
    fallback="false",
)

OWN: tuple[Variable[Any], ...] = (
    SERVICE_NAME,
    EXPORT,
    SHUTDOWN_SECONDS,
    STRICT,
    LOG_FORMAT,
    HEALTH_FILE,
    SPOOL_DIRECTORY,
    SPOOL_BYTES,
    QUEUE_METRICS,
    INJECT,
    ENV_FILE,
    WEB_TOKEN,
    SAMPLE,
    TRACE,
    NEW_TRACE_TASKS,
    BAGGAGE_ATTRIBUTES,
    CAPTURE_ARGS,
    CLIENT_ROOTS,
    DB_SPANS,
    ROOT_SPANS_PER_SECOND,
    PLUMBING,
    TASK_NAME_FROM,
    EXCEPTION_MESSAGES,
)
