# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The table of settings: every variable we read, one row each.

A row says how a value is checked and what a bad one falls back to: always the more
private and the cheaper side. ``docs/settings.md`` is written from this table (a test
holds the two together), the launcher and its messages use it.

The SDK reads its own variables itself, some of them at import, and raises on a bad
value. So a bad value is replaced in the environment before the SDK is imported: after
that every reader sees a value that works.
"""

from __future__ import annotations

from collections.abc import Callable
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


def _rows(
    names: tuple[str, ...], make: Callable[[str], Variable]
) -> tuple[Variable, ...]:
    return tuple(make(name) for name in names)


def _both(suffix: str) -> tuple[str, str]:
    """Return the general and the traces' own name; the SDK prefers the second."""
    return (f"OTEL_EXPORTER_OTLP_{suffix}", f"OTEL_EXPORTER_OTLP_TRACES_{suffix}")


_LIMITS = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "none",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "none",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "128",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "128",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "128",
}

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
        "auto, inline",
        "auto",
        "How spans leave: `inline`, each process exports its own.",
        checks.one_of("auto", "inline"),
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
        "OTEL_CELERY_ENV_FILE",
        f"paths, separated by `{checks.PATH_SEPARATOR}`",
        "unset",
        "The same as `--env-file`: files loaded whole. A missing one ends the start with status 78.",
        checks.text,
        "unset",
    ),
)

STANDARD = (
    Variable(
        "OTEL_SDK_DISABLED",
        "true, false",
        "false",
        "`true` is plain Celery.",
        checks.sdk_disabled,
        "true",
    ),
    Variable(
        "OTEL_SERVICE_NAME",
        "text",
        "`<app>-<role>`",
        "Service name, taken literally.",
        checks.text,
        "unset",
    ),
    Variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        "key=value, separated by commas",
        "unset",
        "Attributes of the resource. A `service.instance.id` given here is kept.",
        checks.resource_attributes,
        "its well-formed items",
    ),
    Variable(
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
        "names, separated by commas",
        "unset",
        "Installed resource detectors, run once in the main process before any fork.",
        checks.installed("opentelemetry_resource_detector", also=("*",)),
        "the known names",
    ),
    Variable(
        "OTEL_PROPAGATORS",
        "names, separated by commas",
        "tracecontext,baggage",
        "Installed propagators, joined into the global composite propagator.",
        checks.propagators,
        "the known names, else tracecontext",
    ),
    Variable(
        "OTEL_TRACES_SAMPLER",
        "name of an installed sampler",
        "parentbased_always_on",
        "Which traces are recorded.",
        checks.sampler,
        "parentbased_always_off",
    ),
    Variable(
        "OTEL_TRACES_SAMPLER_ARG",
        "for the ratio samplers a number from 0 to 1",
        "1.0",
        "Argument of the sampler.",
        checks.text,
        "0",
    ),
    Variable(
        "OTEL_PYTHON_ID_GENERATOR",
        "name of an installed generator",
        "random",
        "`random` draws from the operating system, so that `random.seed()` in a task repeats no ids.",
        checks.installed_one("opentelemetry_id_generator", "random"),
        "random",
    ),
    Variable(
        "OTEL_PYTHON_CONTEXT",
        "name of an installed context",
        "contextvars_context",
        "Where the current context is kept.",
        checks.installed_one("opentelemetry_context", "contextvars_context"),
        "contextvars_context",
    ),
    Variable(
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        "names, separated by commas; `*`",
        "unset",
        "Installed instrumentations to leave off. `celery` and `*` leave Celery's off, too.",
        checks.text,
        "unset",
    ),
    Variable(
        "OTEL_TRACES_EXPORTER",
        "otlp, console, none, or installed names",
        "otlp",
        "Where spans go; several are separated by commas.",
        checks.exporters,
        "the known names, else none",
    ),
    *_rows(
        _both("PROTOCOL"),
        lambda name: Variable(
            name,
            "grpc, http/protobuf",
            "grpc",
            "Protocol of the OTLP exporter.",
            checks.one_of("grpc", "http/protobuf"),
            "grpc",
        ),
    ),
    *_rows(
        _both("ENDPOINT"),
        lambda name: Variable(
            name,
            "URL",
            "http://localhost:4317",
            "Where the collector listens (`http://localhost:4318` with http/protobuf). Without `http://` the connection uses TLS.",
            checks.endpoint,
            "unset",
        ),
    ),
    *_rows(
        _both("HEADERS"),
        lambda name: Variable(
            name,
            "key=value, separated by commas",
            "unset",
            "Headers of each export, percent-encoded. Never shown.",
            checks.headers,
            "its well-formed items",
            secret=True,
        ),
    ),
    *_rows(
        _both("TIMEOUT"),
        lambda name: Variable(
            name,
            "number over 0",
            "10",
            "How long one export may take, its retries included.",
            checks.number(0, 3600, over=True),
            "10",
            unit="seconds",
        ),
    ),
    *_rows(
        _both("COMPRESSION"),
        lambda name: Variable(
            name,
            "none, gzip; with http/protobuf deflate",
            "none",
            "Compression of an export.",
            checks.compression,
            "none",
        ),
    ),
    *_rows(
        _both("INSECURE"),
        lambda name: Variable(
            name,
            "true, false",
            "false",
            "`true`: no TLS for an endpoint without scheme (grpc).",
            checks.one_of("true", "false"),
            "false",
        ),
    ),
    *(
        row
        for suffix, text in (
            ("CERTIFICATE", "Certificates the collector's is checked against"),
            ("CLIENT_KEY", "Our private key (mTLS)"),
            ("CLIENT_CERTIFICATE", "Our certificate (mTLS)"),
        )
        for row in _rows(
            _both(suffix),
            lambda name, text=text: Variable(  # type: ignore[misc]
                name,
                "path",
                "unset",
                f"{text}, a PEM file.",
                checks.readable_file,
                "unset",
            ),
        )
    ),
    Variable(
        "OTEL_BSP_SCHEDULE_DELAY",
        "whole number over 0",
        "5000",
        "The longest time a span waits in the BatchSpanProcessor.",
        checks.whole_number(1),
        "5000",
        unit="milliseconds",
    ),
    Variable(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "whole number over 0",
        "2048",
        "Spans the BatchSpanProcessor holds; further ones drop the oldest.",
        checks.whole_number(1),
        "2048",
        unit="spans",
    ),
    Variable(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "whole number over 0, at most the queue size",
        "512",
        "Spans in one export.",
        checks.whole_number(1),
        "512",
        unit="spans",
    ),
    Variable(
        "OTEL_BSP_EXPORT_TIMEOUT",
        "whole number over 0",
        "30000",
        "Read and not used by the SDK; OTEL_EXPORTER_OTLP_TIMEOUT bounds an export.",
        checks.whole_number(1),
        "30000",
        unit="milliseconds",
    ),
    *(
        Variable(
            name,
            "whole number",
            default,
            "Limit of a span, as the SDK's documentation has it.",
            checks.whole_number(0),
            "128",
        )
        for name, default in _LIMITS.items()
    ),
)

VARIABLES: tuple[Variable, ...] = OWN + STANDARD

# Set, and not handled by the launcher: named in the start line, never half applied.
UNHANDLED_PREFIXES = (
    "OTEL_BLRP_",
    "OTEL_EXPORTER_OTLP_LOGS_",
    "OTEL_EXPORTER_OTLP_METRICS_",
    "OTEL_LOGRECORD_",
    "OTEL_METRIC_",
    "OTEL_METRICS_",
)
UNHANDLED_NAMES = frozenset(
    {
        "OTEL_CONFIG_FILE",
        "OTEL_LOGS_EXPORTER",
        "OTEL_LOG_LEVEL",
        "OTEL_PYTHON_TRACER_CONFIGURATOR",
        "OTEL_PYTHON_TRACER_PROVIDER",
    }
)


def reference() -> str:
    """Return ``docs/settings.md``, written from the table."""
    return "\n".join(
        [
            "# Settings",
            "",
            "Every variable `otel-celery` reads. Written from the table in"
            " `otel_celery_launcher/variables.py` by `make docs`; do not edit.",
            "",
            "An empty value means unset. A bad value never stops a worker: one line"
            " says what is used instead, always the more private and the cheaper"
            " side; `OTEL_CELERY_STRICT=true` makes it exit status 78.",
            "",
            "Variables of metrics and logs, `OTEL_CONFIG_FILE` and `OTEL_LOG_LEVEL`"
            " are not handled; those that are set are named when the worker starts.",
            "",
            *_table("## Our own", OWN),
            *_table("## Standard", STANDARD),
        ]
    )


def _table(title: str, rows: tuple[Variable, ...]) -> list[str]:
    lines = [
        title,
        "",
        "| variable | value | unit | default | a bad value becomes | what it does |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.name}` | {row.kind} | {row.unit} | {row.default} | {row.fallback} | {row.help} |"
        for row in rows
    ]
    return [*lines, ""]


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - this is the output of `make docs`
