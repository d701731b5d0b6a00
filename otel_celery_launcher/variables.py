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

from dataclasses import dataclass, replace

from otel_celery_launcher import checks, otlp_checks
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


_LIMITS = [
    "ATTRIBUTE_COUNT",
    "ATTRIBUTE_VALUE_LENGTH",
    "SPAN_ATTRIBUTE_COUNT",
    "SPAN_ATTRIBUTE_VALUE_LENGTH",
    "SPAN_EVENT_COUNT",
    "SPAN_LINK_COUNT",
    "EVENT_ATTRIBUTE_COUNT",
    "LINK_ATTRIBUTE_COUNT",
]

_BSP = (
    ("SCHEDULE_DELAY", "5000", "milliseconds", "The longest time a span waits."),
    ("MAX_QUEUE_SIZE", "2048", "spans", "Spans held; further ones drop the oldest."),
    (
        "MAX_EXPORT_BATCH_SIZE",
        "512",
        "spans",
        "Spans in one export; at most the queue.",
    ),
    ("EXPORT_TIMEOUT", "30000", "milliseconds", "Read and not used by the SDK."),
)

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

# OTEL_EXPORTER_OTLP_<name> and OTEL_EXPORTER_OTLP_TRACES_<name>; the SDK prefers the
# second.
OTLP = (
    Variable(
        "PROTOCOL",
        "grpc, http/protobuf",
        "grpc",
        "Protocol of the OTLP exporter.",
        checks.one_of("grpc", "http/protobuf"),
        "grpc",
    ),
    Variable(
        "ENDPOINT",
        "URL",
        "http://localhost:4317",
        "Where the collector listens (`http://localhost:4318` with http/protobuf). Without `http://` the connection uses TLS.",
        otlp_checks.endpoint,
        "unset",
    ),
    Variable(
        "HEADERS",
        "key=value, separated by commas",
        "unset",
        "Headers of each export, percent-encoded. Never shown.",
        otlp_checks.headers,
        "its well-formed items",
        secret=True,
    ),
    Variable(
        "TIMEOUT",
        "number over 0",
        "10",
        "How long one export may take, its retries included.",
        otlp_checks.timeout,
        "10",
        unit="seconds",
    ),
    Variable(
        "COMPRESSION",
        "none, gzip; with http/protobuf deflate",
        "none",
        "Compression of an export.",
        otlp_checks.compression,
        "none",
    ),
    Variable(
        "INSECURE",
        "true, false",
        "false",
        "`true`: no TLS for an endpoint without scheme (grpc).",
        checks.one_of("true", "false"),
        "false",
    ),
    *(
        Variable(name, "path", "unset", text, otlp_checks.readable_file, "unset")
        for name, text in (
            ("CERTIFICATE", "PEM file with what the collector's is checked against."),
            ("CLIENT_KEY", "PEM file with our private key (mTLS)."),
            ("CLIENT_CERTIFICATE", "PEM file with our certificate (mTLS)."),
        )
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
    *(
        replace(row, name=f"OTEL_EXPORTER_OTLP_{signal}{row.name}")
        for row in OTLP
        for signal in ("", "TRACES_")
    ),
    *(
        Variable(
            f"OTEL_BSP_{name}",
            "whole number over 0",
            default,
            text,
            checks.whole_number(1),
            default,
            unit=unit,
        )
        for name, default, unit, text in _BSP
    ),
    *(
        Variable(
            f"OTEL_{name}_LIMIT",
            "whole number",
            "none" if name.endswith("LENGTH") else "128",
            "Limit of a span, as the SDK's documentation has it.",
            checks.whole_number(0),
            "the default",
        )
        for name in _LIMITS
    ),
)

VARIABLES: tuple[Variable, ...] = OWN + STANDARD
