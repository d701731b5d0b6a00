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

from dataclasses import replace

from otel_celery_launcher.settings import checks, otlp_checks, task_checks
from otel_celery_launcher.settings.launcher_variables import OWN
from otel_celery_launcher.settings.variable import Variable

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
        "URL; with grpc also a target of gRPC's, such as `unix:///run/otel.sock`, `dns:///host:4317`",
        "http://localhost:4317",
        "Where the collector listens (`http://localhost:4318` with http/protobuf). Without `http://` the connection uses TLS, unless `OTEL_EXPORTER_OTLP_INSECURE` is `true`.",
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
        "`true`: no TLS for an endpoint that is no URL (grpc).",
        otlp_checks.insecure,
        "the endpoint's scheme decides",
    ),
    *(
        Variable(
            name,
            "path",
            "unset",
            f"{text} Never shown.",
            otlp_checks.readable_file,
            "unset",
            secret=True,
        )
        for name, text in (
            (
                "CERTIFICATE",
                "PEM file that the collector's certificate is checked against.",
            ),
            (
                "CLIENT_KEY",
                "PEM file with the client's private key (mTLS), only together with its certificate.",
            ),
            (
                "CLIENT_CERTIFICATE",
                "PEM file with the client's certificate (mTLS), with gRPC only together with its key.",
            ),
        )
    ),
)

STANDARD = (
    Variable(
        "OTEL_SDK_DISABLED",
        "true, false",
        "false",
        "`true`, in any case, is plain Celery; no other word is.",
        checks.otel_boolean,
        "false",
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
        checks.installed("opentelemetry_resource_detector"),
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
        "OTEL_PYTHON_LOG_CORRELATION",
        "true, false",
        "false",
        "Write trace and span id into the lines of Celery's own log formats. As attributes (`otelTraceID`, `otelSpanID`) they are on every log record.",
        checks.otel_boolean,
        "false",
    ),
    Variable(
        "OTEL_LOG_LEVEL",
        "none, error, warn, info, debug",
        "info",
        "`debug` shows each trace context that is injected and extracted; the others change nothing.",
        checks.one_of("info", "debug", "warn", "error", "none"),
        "info",
    ),
    Variable(
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "names, separated by commas",
        "unset",
        "`messaging`: today's messaging conventions in place of the names the Celery instrumentation has always had; `messaging/dup`: both. Other names are for other instrumentations.",
        task_checks.stability,
        "the known names",
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
            "whole number over 0, below 2^31",
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
            "whole number below 2^31",
            "none" if name.endswith("LENGTH") else "128",
            "Limit of a span, as the SDK's documentation has it.",
            checks.whole_number(0),
            "the default",
        )
        for name in _LIMITS
    ),
)

VARIABLES: tuple[Variable, ...] = OWN + STANDARD
