# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Explains failed exports: what each means and what to do about it.

The exporters repeat the errors of gRPC, requests or the collector
(opentelemetry-exporter-otlp 1.30 to 1.45). The worker's log and ``doctor`` show the
texts of this table instead, so that both give the same advice.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from otel_celery_launcher.signals import TRACES

_CHECK_PORT = (
    "check the port: collectors take gRPC on 4317 and HTTP on 4318, and"
    " OTEL_EXPORTER_OTLP_PROTOCOL says which of them you send"
)
CHECK_HOST = (
    "check the host in OTEL_EXPORTER_OTLP_ENDPOINT; if it is right, this machine has no"
    " DNS or no way out"
)
_CHECK_HEADERS = (
    "check the key in OTEL_EXPORTER_OTLP_HEADERS, and that this endpoint is the one it"
    " was made for"
)


class Failure(NamedTuple):
    """A failed export.

    Attributes:
        reason: Why it failed, without secrets.
        advice: What to do about it: a sentence without its full stop.
        id: The id of this kind of failure, a heading of docs/doctor.md.
    """

    reason: str
    advice: str
    id: str = ""


class _Row(NamedTuple):
    pattern: str
    reason: str  # "{}" stands for the answer itself
    advice: str
    id: str


# The first row that fits decides, so what is special comes first.
_ROWS = (
    _Row(
        r"^the exporter process ends",
        "{}",
        "set OTEL_CELERY_EXPORT=inline until you know why it ends: docs/troubleshooting.md",
        "OC322",
    ),
    _Row(
        r"Failed parsing HTTP/2|Expected SETTINGS frame|Missing selected ALPN",
        "the server there does not speak gRPC, it may speak HTTP",
        "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the collector's gRPC port"
        " (usually 4317)",
        "OC311",
    ),
    _Row(
        r"BadStatusLine|Invalid HTTP Header",
        "the server there does not speak HTTP, it may speak gRPC",
        "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use the collector's HTTP port (4318 as"
        " a rule)",
        "OC312",
    ),
    _Row(
        r"WRONG_VERSION_NUMBER|tls_validate_record_header|record layer failure",
        "the server there does not speak TLS",
        "write http:// instead of https://",
        "OC313",
    ),
    _Row(
        r"certificate has expired|CERT_HAS_EXPIRED",
        "the collector's certificate has expired",
        "renew the certificate of the collector",
        "OC325",
    ),
    _Row(
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        "the collector's certificate is not trusted ({})",
        "name the certificate of its authority: OTEL_EXPORTER_OTLP_CERTIFICATE=<PEM file>",
        "OC314",
    ),
    _Row(
        r"certificate required|CERTIFICATE_REQUIRED|bad certificate|TLSV13_ALERT",
        "the collector requires a client certificate ({})",
        "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OC315",
    ),
    _Row(
        r"^UNAUTHENTICATED|code: 401\b",
        "the collector does not accept the key ({})",
        _CHECK_HEADERS,
        "OC316",
    ),
    _Row(
        r"^PERMISSION_DENIED|code: 403\b",
        "the collector does not let this key send traces ({})",
        _CHECK_HEADERS,
        "OC317",
    ),
    _Row(
        r"^UNIMPLEMENTED|code: (405|415|501)\b",
        "the server there accepts no traces ({})",
        "check the port, and that the collector has an otlp receiver in a traces pipeline",
        "OC318",
    ),
    _Row(
        r"code: 404\b",
        "the server accepts no traces at the path {path} ({})",
        "write the collector's address alone in OTEL_EXPORTER_OTLP_ENDPOINT:"
        f" {TRACES.path} is added to it; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as"
        " it is, path and all",
        "OC319",
    ),
    _Row(
        r"^RESOURCE_EXHAUSTED|Too Many Requests|code: 429\b"
        # Its memory limiter, by UNAVAILABLE (collector internal/memorylimiter 0.159).
        r"|data refused due to high memory",
        "the collector accepts no more for now ({})",
        "raise the collector's limits, or lower the sampling ratio",
        "OC320",
    ),
    _Row(
        r"DNS resolution failed|NameResolutionError|Name or service not known"
        r"|Temporary failure in name resolution|Could not contact DNS servers"
        # grpc 1.80 and later
        r"|errors resolving|Domain name not found",
        "the collector's host name cannot be resolved here",
        CHECK_HOST,
        "OC304",
    ),
    _Row(
        r"Connection refused|ECONNREFUSED",
        "nothing listens there",
        "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
        "OC305",
    ),
    _Row(
        r"No such file or directory",
        "there is no such file or socket ({})",
        "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
        "OC305",
    ),
    _Row(
        r"^DEADLINE_EXCEEDED|timed? ?out|FD Shutdown|no answer within",
        "no answer in time ({})",
        "check whether the collector is overloaded; OTEL_EXPORTER_OTLP_TIMEOUT is how long"
        " an export may take",
        "OC321",
    ),
    _Row(
        r"cannot be imported",
        "{}",
        "install the package that provides this exporter, in otel-celery's environment",
        "OC211",
    ),
    _Row(
        r"Service Unavailable|Bad Gateway|Gateway Time-?out|code: 50[0-9]\b",
        "the collector, or a proxy before it, cannot take them ({})",
        "look at the log of the server that answers there",
        "OC323",
    ),
    _Row(
        r"^UNAVAILABLE|Connection aborted|RemoteDisconnected",
        "the collector cannot be reached ({})",
        "check that the collector runs; " + _CHECK_PORT,
        "OC324",
    ),
)

NO_ANSWER = "no answer"
UNREACHED = "OC324"
WANTS_CERTIFICATE = "OC315"

_RAW_TEXT = (
    # gRPC's own words around the cause.
    re.compile(r"failed to connect to all addresses; last error: (\w+: )?"),
    # The exporters' words around the answer.
    re.compile(r"^Transient error | encountered while exporting .*$"),
    re.compile(r"^Failed to export .*? (?=code: )"),
)


def explain(error: str, path: str = TRACES.path) -> Failure:
    """Return what a failed export means.

    Args:
        error: The last line of the exporters; empty where there was none.
        path: Where spans go by HTTP, as it may be shown.
    """
    answer = error or NO_ANSWER
    for row in _ROWS:
        if re.search(row.pattern, answer, re.IGNORECASE):
            reason = row.reason.replace("{path}", path)
            return Failure(reason.replace("{}", _answer(answer)), row.advice, row.id)
    advice = "check that the collector runs; " + _CHECK_PORT
    return Failure(_answer(answer), advice, UNREACHED)


def _answer(error: str) -> str:
    """Return an answer without the words that stand around every one."""
    for pattern in _RAW_TEXT:
        error = pattern.sub("", error)
    return error
