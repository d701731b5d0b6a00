# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The standard variables of OpenTelemetry that we read or check, one row each.

A row says how a value is checked and what a bad one falls back to: always the more
private and the cheaper side. The SDK reads its own variables itself, some of them at
import, and raises on a bad value. So a bad value is replaced in the environment before
the SDK is imported (``corrections.py``): after that every reader sees a value that works.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from otel_celery_launcher.settings import checks, otlp_checks, tasks
from otel_celery_launcher.settings.batch_variables import batching
from otel_celery_launcher.settings.checks import split_names
from otel_celery_launcher.settings.launcher_variables import OWN, is_true
from otel_celery_launcher.settings.signal_variables import (
    LOG_VARIABLES,
    METRIC_VARIABLES,
)
from otel_celery_launcher.settings.variable import Variable
from otel_celery_launcher.signals import SIGNALS, TRACES

SDK_DISABLED = Variable(
    name="OTEL_SDK_DISABLED",
    kind="true, false",
    help="`true`, in any case, runs plain Celery. No other word does.",
    check=checks.otel_boolean,
    parse=is_true,
    default="false",
    fallback="false",
)

SERVICE_NAME = Variable(
    name="OTEL_SERVICE_NAME",
    kind="text",
    help="Service name, used literally.",
    check=checks.text,
    parse=str,
    default_text="`<app>-<role>`",
    fallback_text="unset",
)

RESOURCE_ATTRIBUTES = Variable(
    name="OTEL_RESOURCE_ATTRIBUTES",
    kind="key=value, separated by commas",
    help="Resource attributes. A `service.instance.id` given here is kept.",
    check=checks.resource_attributes,
    parse=str,
    fallback_text="its well-formed items",
)

RESOURCE_DETECTORS = Variable(
    name="OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
    kind="names, separated by commas",
    help="Installed resource detectors. They run once, in the main process, before any fork.",
    check=checks.installed("opentelemetry_resource_detector"),
    parse=str,
    fallback_text="the known names",
)

PROPAGATORS = Variable(
    name="OTEL_PROPAGATORS",
    kind="names, separated by commas",
    help="Installed propagators, combined into the global composite propagator.",
    check=checks.propagators,
    parse=split_names,
    default="tracecontext,baggage",
    fallback="tracecontext",
    fallback_text="the known names, else tracecontext",
)

TRACES_SAMPLER = Variable(
    name="OTEL_TRACES_SAMPLER",
    kind="name of an installed sampler",
    help="Which traces are recorded.",
    check=checks.sampler,
    parse=str,
    default="parentbased_always_on",
    fallback="parentbased_always_off",
)

TRACES_SAMPLER_ARG = Variable(
    name="OTEL_TRACES_SAMPLER_ARG",
    kind="for the ratio samplers a number from 0 to 1",
    help="Argument of the sampler.",
    check=checks.text,
    parse=str,
    default_text="1.0",
    fallback="0",
)

ID_GENERATOR = Variable(
    name="OTEL_PYTHON_ID_GENERATOR",
    kind="name of an installed generator",
    help="`random` reads the operating system's generator, so `random.seed()` in a task never repeats an id.",
    check=checks.installed_one("opentelemetry_id_generator"),
    parse=str,
    default="random",
    fallback="random",
)

CONTEXT = Variable(
    name="OTEL_PYTHON_CONTEXT",
    kind="name of an installed context",
    help="Where the current context is kept.",
    check=checks.installed_one("opentelemetry_context"),
    parse=str,
    default="contextvars_context",
    fallback="contextvars_context",
)

DISABLED_INSTRUMENTATIONS = Variable(
    name="OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    kind="names, separated by commas; `*`",
    help="Instrumentations to disable. `celery` and `*` also disable Celery's own.",
    check=checks.text,
    parse=split_names,
)

LOG_CORRELATION = Variable(
    name="OTEL_PYTHON_LOG_CORRELATION",
    kind="true, false",
    help="Write trace and span id into the lines of Celery's own log formats. Every log record has them as attributes in any case (`otelTraceID`, `otelSpanID`).",
    check=checks.otel_boolean,
    parse=is_true,
    default="false",
    fallback="false",
)

LOG_LEVEL = Variable(
    name="OTEL_LOG_LEVEL",
    kind="none, error, warn, info, debug",
    help="`debug` shows each trace context that is injected or extracted. The other levels change nothing.",
    check=checks.one_of("info", "debug", "warn", "error", "none"),
    parse=str,
    default="info",
    fallback="info",
)

SEMCONV_STABILITY_OPT_IN = Variable(
    name="OTEL_SEMCONV_STABILITY_OPT_IN",
    kind="names, separated by commas",
    help="`messaging`: today's messaging conventions instead of the names that the Celery instrumentation has always had. `messaging/dup`: both. Other names are for other instrumentations.",
    check=tasks.stability,
    parse=split_names,
    fallback_text="the known names",
)

TRACES_EXPORTER = Variable(
    name="OTEL_TRACES_EXPORTER",
    kind="otlp, console, none, or installed names",
    help="Where spans go. Separate several by commas.",
    check=checks.exporters(TRACES),
    parse=split_names,
    default="otlp",
    fallback="none",
    fallback_text="the known names, else none",
)

QUEUE_SIZE, BATCH_SIZE, _BATCHING = batching("BSP", "span")

# OTEL_EXPORTER_OTLP_<name>, and OTEL_EXPORTER_OTLP_TRACES_<name>, which the SDK prefers.
OTLP: tuple[Variable[Any], ...] = (
    Variable(
        name="PROTOCOL",
        kind="grpc, http/protobuf",
        help="Protocol of the OTLP exporter.",
        check=checks.one_of("grpc", "http/protobuf"),
        parse=str,
        default="grpc",
        fallback="grpc",
    ),
    Variable(
        name="ENDPOINT",
        kind="URL; with grpc also a target of gRPC's, such as `unix:///run/otel.sock`, `dns:///host:4317`",
        help="Where the collector listens (`http://localhost:4318` with http/protobuf). Without `http://` the connection uses TLS, unless `OTEL_EXPORTER_OTLP_INSECURE` is `true`.",
        check=otlp_checks.endpoint,
        parse=str,
        default_text="http://localhost:4317",
        fallback_text="unset",
    ),
    Variable(
        name="HEADERS",
        kind="key=value, separated by commas",
        help="Headers of each export, percent-encoded. Never shown.",
        check=otlp_checks.headers,
        parse=str,
        fallback_text="its well-formed items",
        secret=True,
    ),
    Variable(
        name="TIMEOUT",
        kind="number over 0",
        help="Longest time one export may take, including its retries.",
        check=otlp_checks.timeout,
        parse=float,
        default="10",
        unit="seconds",
    ),
    Variable(
        name="COMPRESSION",
        kind="none, gzip; with http/protobuf deflate",
        help="Compression of an export.",
        check=otlp_checks.compression,
        parse=str,
        default_text="none",
    ),
    Variable(
        name="INSECURE",
        kind="true, false",
        help="`true`: no TLS for an endpoint that is not a URL (grpc).",
        check=otlp_checks.insecure,
        parse=is_true,
        default="false",
        fallback_text="the endpoint's scheme decides",
    ),
    *(
        Variable(
            name=name,
            kind="path",
            help=f"{text} Never shown.",
            check=otlp_checks.readable_file,
            parse=str,
            secret=True,
        )
        for name, text in (
            ("CERTIFICATE", "PEM file that verifies the collector's certificate."),
            (
                "CLIENT_KEY",
                "PEM file with the client's private key (mTLS). Set it only together with its certificate.",
            ),
            (
                "CLIENT_CERTIFICATE",
                "PEM file with the client's certificate (mTLS). With gRPC, set it only together with its key.",
            ),
        )
    ),
)

_LIMITS = (
    "ATTRIBUTE_COUNT",
    "ATTRIBUTE_VALUE_LENGTH",
    "SPAN_ATTRIBUTE_COUNT",
    "SPAN_ATTRIBUTE_VALUE_LENGTH",
    "SPAN_EVENT_COUNT",
    "SPAN_LINK_COUNT",
    "EVENT_ATTRIBUTE_COUNT",
    "LINK_ATTRIBUTE_COUNT",
    "LOGRECORD_ATTRIBUTE_COUNT",
    "LOGRECORD_ATTRIBUTE_VALUE_LENGTH",
)

STANDARD: tuple[Variable[Any], ...] = (
    SDK_DISABLED,
    SERVICE_NAME,
    RESOURCE_ATTRIBUTES,
    RESOURCE_DETECTORS,
    PROPAGATORS,
    TRACES_SAMPLER,
    TRACES_SAMPLER_ARG,
    ID_GENERATOR,
    CONTEXT,
    DISABLED_INSTRUMENTATIONS,
    LOG_CORRELATION,
    LOG_LEVEL,
    SEMCONV_STABILITY_OPT_IN,
    TRACES_EXPORTER,
    *(
        replace(row, name=f"OTEL_EXPORTER_OTLP_{signal}{row.name}")
        for row in OTLP
        for signal in ("", *(f"{each.name.upper()}_" for each in SIGNALS))
    ),
    *METRIC_VARIABLES,
    *LOG_VARIABLES,
    *_BATCHING,
    *(
        Variable(
            name=f"OTEL_{name}_LIMIT",
            kind="whole number below 2^31",
            help="A limit of spans or log records, as the SDK documents it.",
            check=checks.whole_number(0),
            parse=str,
            default_text="none" if name.endswith("LENGTH") else "128",
            fallback_text="the default",
        )
        for name in _LIMITS
    ),
)

VARIABLES: tuple[Variable[Any], ...] = OWN + STANDARD
