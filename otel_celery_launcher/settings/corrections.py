# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Corrects the environment before anything of OpenTelemetry is imported.

The SDK reads its own variables itself and raises on many bad values. So each variable of
the table is checked, and a value that works takes the place of a bad one. Runs in the
launcher, under ``exec``, in ``setup()`` and in the doctor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.errors import LauncherError, report_failure
from otel_celery_launcher.settings import advice, checks
from otel_celery_launcher.settings.checks import BadValueError
from otel_celery_launcher.settings.otlp_checks import (
    default_endpoint,
    is_resolved_by_grpc,
    traces_value,
)
from otel_celery_launcher.settings.standard_variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from otel_celery_launcher.settings.variable import Variable

# The traces' own variables and those of all signals: the exporter takes a certificate
# and its key from one and the same group.
OTLP_PREFIXES = ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether OTEL_SDK_DISABLED turns tracing off: only ``true`` does."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def prepare_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Correct the environment; return a line for each bad value.

    Where that itself does not work, tracing is turned off: the SDK would raise on the
    values that are left.

    Raises:
        LauncherError: There is a bad value, with OTEL_CELERY_STRICT=true.
    """
    try:
        problems = correct_environment(environ)
    except Exception:  # noqa: BLE001 - the boundary: a bug of ours stops no program
        report_failure("tracing is off: the variables could not be checked")
        environ["OTEL_SDK_DISABLED"] = "true"
        return []
    if problems and environ.get("OTEL_CELERY_STRICT") == "true":
        raise LauncherError(
            "; ".join(problems),
            "correct it, or unset OTEL_CELERY_STRICT to start without",
        )
    return problems


def correct_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Put a value that works in the place of each bad one; return a line for each.

    An empty value becomes unset: some readers in the SDK tell the two apart.
    """
    problems: list[str] = []
    for variable in VARIABLES:
        value = environ.get(variable.name)
        if value is None:
            continue
        stripped = value.strip()
        try:
            corrected = variable.check(stripped) if stripped else None
        except BadValueError as bad:
            corrected = bad.instead
            problems.append(_bad_value_line(variable, value, bad, environ))
        _put(environ, variable.name, corrected)
    return [
        *problems,
        *_correct_sampler_argument(environ),
        *_correct_for_protocol(environ),
        *_correct_batch_size(environ),
    ]


def batch_sizes(environ: Mapping[str, str]) -> tuple[int, int]:
    """Return the sizes of the BatchSpanProcessor's queue and of one batch."""
    return (
        int(environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048),
        int(environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or 512),
    )


def _correct_sampler_argument(environ: MutableMapping[str, str]) -> list[str]:
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "")
    if argument is None:
        return []
    try:
        checks.sampler_argument(argument, sampler)
    except BadValueError as bad:
        _put(environ, "OTEL_TRACES_SAMPLER_ARG", bad.instead)
        return [
            f"OTEL_TRACES_SAMPLER_ARG is {checks.shown(argument)}: expected"
            f" {bad.expected} for {sampler}; using {bad.instead}"
        ]
    return []


def _correct_for_protocol(environ: MutableMapping[str, str]) -> list[str]:
    exporters = checks.split_names(environ.get("OTEL_TRACES_EXPORTER", ""))
    protocol = traces_value(environ, "PROTOCOL") or "grpc"
    has_grpc = protocol == "grpc" or "otlp_proto_grpc" in exporters
    correct = _correct_for_grpc if has_grpc else _correct_for_http
    return [line for prefix in OTLP_PREFIXES for line in correct(environ, prefix)]


def _correct_for_http(environ: MutableMapping[str, str], prefix: str) -> list[str]:
    """Unset an endpoint that only gRPC finds."""
    name = f"{prefix}ENDPOINT"
    value = environ.get(name, "")
    if not is_resolved_by_grpc(value):
        return []
    del environ[name]
    shown = checks.shown(advice.shown_endpoint(value))
    return [
        f"{name} is {shown}: expected a URL such as http://collector:4318 with"
        f" http/protobuf; using {default_endpoint(environ)}"
    ]


def _correct_for_grpc(environ: MutableMapping[str, str], prefix: str) -> list[str]:
    """Unset what the gRPC exporter does not survive."""
    problems = _correct_half_of_a_pair(environ, prefix)
    name = f"{prefix}COMPRESSION"
    if environ.get(name) == "deflate":
        del environ[name]
        problems.append(
            f"{name} is 'deflate': expected none or gzip with grpc; using none"
        )
    return problems


def _correct_half_of_a_pair(
    environ: MutableMapping[str, str], prefix: str
) -> list[str]:
    """Unset a key without its certificate, or the other way round.

    gRPC's core ends the process by SIGABRT there (grpcio 1.85,
    ``grpc_tls_certificate_distributor.cc``: ``Check failed: cert_chain != nullptr``).
    """
    pair = (f"{prefix}CLIENT_KEY", f"{prefix}CLIENT_CERTIFICATE")
    present = [name for name in pair if name in environ]
    if len(present) != 1:
        return []
    (name,) = present
    (missing,) = set(pair) - {name}
    del environ[name]
    return [
        f"{name} is set (value not shown): expected {missing} beside it; using neither"
    ]


def _correct_batch_size(environ: MutableMapping[str, str]) -> list[str]:
    problems = []
    queue, batch = batch_sizes(environ)
    if batch > queue:
        if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in environ:
            problems.append(
                f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '{batch}': expected at most"
                f" OTEL_BSP_MAX_QUEUE_SIZE; using {queue}"
            )
        environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = str(queue)
    return problems


def _put(environ: MutableMapping[str, str], name: str, value: str | None) -> None:
    if value is None:
        environ.pop(name, None)
    elif environ.get(name) != value:
        environ[name] = value


def _bad_value_line(
    variable: Variable, value: str, bad: BadValueError, environ: Mapping[str, str]
) -> str:
    if variable.secret:
        shown = "set (value not shown)"
    elif variable.name.endswith("_ENDPOINT"):
        shown = checks.shown(advice.shown_endpoint(value))
    else:
        shown = checks.shown(value)
    used = _used(variable, bad.instead, environ)
    return f"{variable.name} is {shown}: expected {bad.expected}; using {used}"


def _used(variable: Variable, instead: str | None, environ: Mapping[str, str]) -> str:
    """Return what is in force now, as it stands in a line."""
    of_all_signals = variable.name.replace("_TRACES_", "_")
    if instead is not None:
        is_shown = not variable.secret and checks.is_showable(instead)
        return instead if is_shown else "its other items"
    if of_all_signals != variable.name and of_all_signals in environ:
        return of_all_signals
    if variable.name.endswith("_ENDPOINT"):
        return default_endpoint(environ)
    return "nothing" if variable.default == "unset" else variable.default
