# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Corrects the environment before anything of OpenTelemetry is imported.

The SDK reads its own variables itself and raises on many bad values. So each variable
of the table is checked, and each bad value is replaced with one that works. Runs in the
launcher, under ``exec``, in ``setup()`` and in the doctor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_celery_launcher.errors import LauncherError, report_failure
from otel_celery_launcher.settings import advice, checks
from otel_celery_launcher.settings.checks import BadValueError
from otel_celery_launcher.settings.launcher_variables import STRICT
from otel_celery_launcher.settings.otlp_checks import (
    DEFAULT_ENDPOINTS,
    is_resolved_by_grpc,
    protocol_of,
)
from otel_celery_launcher.settings.signal_variables import (
    LOG_BATCH_SIZE,
    LOG_QUEUE_SIZE,
    METRICS_EXPORTER,
)
from otel_celery_launcher.settings.standard_variables import (
    BATCH_SIZE,
    QUEUE_SIZE,
    SDK_DISABLED,
    TRACES_EXPORTER,
    TRACES_SAMPLER,
    TRACES_SAMPLER_ARG,
    VARIABLES,
)
from otel_celery_launcher.settings.variable import BadValue
from otel_celery_launcher.signals import METRICS, SIGNALS, TRACES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from otel_celery_launcher.settings.variable import Variable

# Prefixes of the variables for all signals and for each signal. The exporter reads a
# certificate and its key from the same group.
OTLP_PREFIXES = (
    "OTEL_EXPORTER_OTLP_",
    *(f"OTEL_EXPORTER_OTLP_{each.name.upper()}_" for each in SIGNALS),
)

HIDDEN = "set (value not shown)"


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether OTEL_SDK_DISABLED turns tracing off: only ``true`` does."""
    return environ.get(SDK_DISABLED.name, "").strip().lower() == "true"


def prepare_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Correct the environment; return a line for each bad value.

    Where that itself does not work, tracing is turned off: the SDK would raise on the
    values that are left.

    Raises:
        LauncherError: There is a bad value, with OTEL_CELERY_STRICT=true.
    """
    try:
        problems = [str(each) for each in correct_environment(environ)]
    except Exception:  # noqa: BLE001 - the boundary: a bug of ours stops no program
        report_failure("tracing is off: the variables could not be checked")
        environ[SDK_DISABLED.name] = "true"
        return []
    if problems and STRICT.read(environ):
        raise LauncherError(
            "; ".join(problems),
            "correct it, or unset OTEL_CELERY_STRICT to start without",
        )
    return problems


def correct_environment(environ: MutableMapping[str, str]) -> list[BadValue]:
    """Replace each bad value with one that works; return the bad ones.

    Empty variables are unset: some code in the SDK distinguishes empty from unset.
    """
    bad_values: list[BadValue] = []
    for variable in VARIABLES:
        value = environ.get(variable.name)
        if value is None:
            continue
        stripped = value.strip()
        try:
            corrected = variable.check(stripped) if stripped else None
        except BadValueError as exc:
            corrected = exc.kept or variable.fallback
            bad_values.append(_bad_value(variable, value, exc, environ))
        _put(environ, variable.name, corrected)
    return [
        *bad_values,
        *_correct_sampler_argument(environ),
        *_correct_for_protocol(environ),
        *_correct_batch_size(environ, QUEUE_SIZE, BATCH_SIZE),
        *_correct_batch_size(environ, LOG_QUEUE_SIZE, LOG_BATCH_SIZE),
    ]


def _correct_sampler_argument(environ: MutableMapping[str, str]) -> list[BadValue]:
    argument = environ.get(TRACES_SAMPLER_ARG.name)
    sampler = environ.get(TRACES_SAMPLER.name, "")
    if argument is None:
        return []
    try:
        checks.sampler_argument(argument, sampler)
    except BadValueError as exc:
        fallback = str(TRACES_SAMPLER_ARG.fallback)
        environ[TRACES_SAMPLER_ARG.name] = fallback
        expected = f"{exc.expected} for {sampler}"
        printed = checks.safe_repr(argument)
        return [BadValue(TRACES_SAMPLER_ARG.name, printed, expected, fallback)]
    return []


def _correct_for_protocol(environ: MutableMapping[str, str]) -> list[BadValue]:
    """Correct each group of variables for the protocols that read it."""
    exporters = {TRACES: TRACES_EXPORTER, METRICS: METRICS_EXPORTER}
    with_grpc = {
        f"OTEL_EXPORTER_OTLP_{signal.name.upper()}_"
        for signal, variable in exporters.items()
        if protocol_of(environ, signal) == "grpc"
        or "otlp_proto_grpc" in variable.read(environ)
    }
    bad_values: list[BadValue] = []
    for prefix in OTLP_PREFIXES:
        is_for_all = prefix == OTLP_PREFIXES[0]
        has_grpc = bool(with_grpc) if is_for_all else prefix in with_grpc
        correct = _correct_for_grpc if has_grpc else _correct_for_http
        bad_values += correct(environ, prefix)
    return bad_values


def _correct_for_http(environ: MutableMapping[str, str], prefix: str) -> list[BadValue]:
    """Unset an endpoint that only gRPC finds."""
    name = f"{prefix}ENDPOINT"
    value = environ.get(name, "")
    if not is_resolved_by_grpc(value):
        return []
    del environ[name]
    printed = checks.safe_repr(advice.printable_endpoint(value))
    expected = "a URL such as http://collector:4318 with http/protobuf"
    return [BadValue(name, printed, expected, _default_endpoint(environ))]


def _correct_for_grpc(environ: MutableMapping[str, str], prefix: str) -> list[BadValue]:
    """Unset what the gRPC exporter does not survive."""
    bad_values = _correct_half_of_a_pair(environ, prefix)
    name = f"{prefix}COMPRESSION"
    if environ.get(name) == "deflate":
        del environ[name]
        expected = "none or gzip with grpc"
        bad_values.append(BadValue(name, "'deflate'", expected, "none"))
    return bad_values


def _correct_half_of_a_pair(
    environ: MutableMapping[str, str], prefix: str
) -> list[BadValue]:
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
    return [BadValue(name, HIDDEN, f"{missing} beside it", "neither")]


def _correct_batch_size(
    environ: MutableMapping[str, str],
    of_queue: Variable[int],
    of_batch: Variable[int],
) -> list[BadValue]:
    queue, batch = of_queue.read(environ), of_batch.read(environ)
    if batch <= queue:
        return []
    is_given = of_batch.name in environ
    environ[of_batch.name] = str(queue)
    expected = f"at most {of_queue.name}"
    bad_value = BadValue(of_batch.name, f"'{batch}'", expected, str(queue))
    return [bad_value] if is_given else []


def _put(environ: MutableMapping[str, str], name: str, value: str | None) -> None:
    if value is None:
        environ.pop(name, None)
    elif environ.get(name) != value:
        environ[name] = value


def _bad_value(
    variable: Variable[Any],
    value: str,
    exc: BadValueError,
    environ: Mapping[str, str],
) -> BadValue:
    if variable.secret:
        printed = HIDDEN
    elif variable.name.endswith("_ENDPOINT"):
        printed = checks.safe_repr(advice.printable_endpoint(value))
    else:
        printed = checks.safe_repr(value)
    return BadValue(variable.name, printed, exc.expected, _used(variable, exc, environ))


def _used(
    variable: Variable[Any], exc: BadValueError, environ: Mapping[str, str]
) -> str:
    """Return what is in force now, as a line has it."""
    used = exc.kept or variable.fallback
    if used is not None:
        is_shown = not variable.secret and checks.is_printable(used)
        return used if is_shown else "its other items"
    of_all_signals = variable.name
    for signal in SIGNALS:
        of_all_signals = of_all_signals.replace(f"_{signal.name.upper()}_", "_")
    if of_all_signals != variable.name and of_all_signals in environ:
        return of_all_signals
    if variable.name.endswith("_ENDPOINT"):
        return _default_endpoint(environ)
    default = variable.default or variable.default_text
    return default or "nothing"


def _default_endpoint(environ: Mapping[str, str]) -> str:
    return DEFAULT_ENDPOINTS[protocol_of(environ, TRACES)]
