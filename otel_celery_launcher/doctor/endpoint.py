# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The collector: the form of its address, name, port, TLS, and a span it takes."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.delivery.failures import (
    CHECK_HOST,
    UNREACHED,
    WANTS_CERTIFICATE,
    Failure,
    explain,
)
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.settings import advice
from otel_celery_launcher.settings.otlp_checks import (
    is_resolved_by_grpc,
    split_endpoint,
)
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_celery_launcher.settings.settings import Settings

# gRPC takes these for the collector, too (grpc, core/lib: http_proxy_mapper).
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

# Failures of an endpoint without TLS that a collector which requires TLS may cause.
MAY_WANT_TLS = ("OC311", "OC312", "OC321", UNREACHED)

# Failures without an answer: a proxy may be in front of the collector.
UNANSWERED = ("OC304", "OC305", "OC321", UNREACHED)

# Failures that a handshake of our own says more of.
OF_TLS = ("OC314", "OC315", "OC321", UNREACHED)
HANDSHAKE_SECONDS = 1.0

CLIENT_CERTIFICATES = (
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"

PORTS = {"http": 80, "https": 443, "grpc": 4317}


def check_endpoint(
    settings: Settings, environ: Mapping[str, str], source: str, seconds: float
) -> list[Finding]:
    """Look at the collector; sends one span named ``otel-celery doctor``.

    Args:
        settings: As a worker would have them.
        environ: For proxies.
        source: Where the endpoint came from.
        seconds: The longest time each step may take.
    """
    if not settings.traces.sends_otlp:
        what = ", ".join(settings.traces.exporters) or "none"
        seen = f"no OTLP exporter: {what}"
        next_ = "OTEL_TRACES_EXPORTER=otlp, if a collector is to have the spans"
        return [
            Finding(level=WARN, id="OC303", check="collector", seen=seen, next=next_)
        ]
    address = advice.printable_endpoint(settings.traces.endpoint)
    proxy = _proxy(settings, environ)
    findings = [proxy] if proxy is not None else []
    findings += _form(settings, source, address, has_warning=bool(findings))
    variable = endpoint_variable(environ)
    # gRPC itself resolves name and port of its own targets; the test span checks them.
    if not is_resolved_by_grpc(settings.traces.endpoint):
        findings.append(_reach(settings, address, seconds))
    if findings[-1].level != FAIL:
        findings.append(_send(settings, environ, address, seconds))
    if (
        proxy is not None
        and findings[-1].level == FAIL
        and findings[-1].id in UNANSWERED
    ):
        findings = [
            replace(proxy, level=FAIL),
            *findings[1:],
        ]  # which explains what follows
    return [_naming(each, variable) for each in findings]


def _naming(finding: Finding, variable: str) -> Finding:
    """Return a finding whose next step names the variable that gives the endpoint."""
    do = finding.next.replace(f"correct {ENDPOINT}", f"correct {variable}")
    return replace(finding, next=do)


def endpoint_variable(environ: Mapping[str, str]) -> str:
    """Return the variable that gives the endpoint, or would."""
    return TRACES_ENDPOINT if environ.get(TRACES_ENDPOINT) else ENDPOINT


def _form(
    settings: Settings, source: str, address: str, *, has_warning: bool
) -> list[Finding]:
    protocol = (
        "grpc" if "otlp_proto_grpc" in settings.traces.exporters else "http/protobuf"
    )
    findings = [
        Finding(level=WARN, id="OC301", check="endpoint", seen=note.text, source=source)
        for note in settings.notes
        if note.about == "endpoint"
    ]
    if not (findings or has_warning):
        seen = f"{address}, {protocol}"
        findings.append(Finding(level=OK, check="endpoint", seen=seen, source=source))
    return findings


def _proxy(settings: Settings, environ: Mapping[str, str]) -> Finding | None:
    """Return a warning where gRPC does not go to the collector itself."""
    proxies = [name for name in PROXY_VARIABLES if environ.get(name)]
    host = split_endpoint(settings.traces.endpoint).hostname
    is_grpc = "otlp_proto_grpc" in settings.traces.exporters
    if not (proxies and host and is_grpc) or "no_proxy" in environ:
        return None
    return Finding(
        level=WARN,
        id="OC302",
        check="endpoint",
        seen=f"gRPC goes through the proxy of {proxies[0]}",
        source="environment",
        next=f"no_proxy={host}",
    )


def _address(settings: Settings) -> tuple[str, str, int]:
    """Return scheme, host and port of the collector."""
    parts = split_endpoint(settings.traces.endpoint)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or PORTS.get(parts.scheme, 4317),
    )


def _reach(settings: Settings, address: str, seconds: float) -> Finding:
    """Resolve the name, connect, and shake hands where the address says TLS."""
    scheme, host, port = _address(settings)
    end = time.monotonic() + seconds
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:  # a label that is empty or too long
        said = getattr(exc, "strerror", None) or "it is no name of a host"
        why = f"the name {host!r} is not known here ({said})"
        next_ = f"{CHECK_HOST}: name a proxy (https_proxy), or a collector inside"
        return _unreached(address, Failure(why, next_, "OC304"))
    try:
        with socket.create_connection((host, port), max(0.1, end - time.monotonic())):
            pass
    except OSError as exc:
        why = f"{addresses[0][4][0]} port {port}: {exc.strerror or exc}"
        return _unreached(address, explain(str(exc))._replace(reason=why))
    if scheme == "https":
        try:
            _shake_hands(host, port, max(0.1, end - time.monotonic()))
        except (OSError, ssl.SSLError) as exc:
            return _unreached(address, explain(str(exc)))
    seen = f"{address} is reached"
    return Finding(level=OK, check="collector", seen=seen)


@contextmanager
def _shaken_hands(
    host: str, port: int, seconds: float, context: ssl.SSLContext
) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), seconds) as connection,
        context.wrap_socket(connection, server_hostname=host) as encrypted,
    ):
        yield encrypted


def _shake_hands(host: str, port: int, seconds: float) -> None:
    """Shake hands; whether the certificate is trusted, the test span tells."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _shaken_hands(host, port, seconds, context):
        pass


def _unreached(address: str, failure: Failure) -> Finding:
    return _failed("collector", f"{address} cannot be reached", failure)


def _not_accepted(address: str, failure: Failure) -> Finding:
    return _failed("test span", f"{address} did not accept it", failure)


def _failed(check: str, what: str, failure: Failure) -> Finding:
    return Finding(
        level=FAIL,
        id=failure.id,
        check=check,
        seen=f"{what}: {failure.reason}",
        next=failure.advice,
    )


def _not_importable(problem: str) -> Finding:
    return Finding(
        level=FAIL,
        id="OC211",
        check="test span",
        seen=problem,
        next="install the package that provides it, or correct OTEL_TRACES_EXPORTER",
        is_setting=True,
    )


def _test_span(service_name: str) -> Any:
    """Return a span that has ended, independent of the sampler that is set."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": service_name}),
        shutdown_on_exit=False,
    )
    span = provider.get_tracer("otel-celery").start_span("otel-celery doctor")
    span.end()
    return span


def _send(
    settings: Settings, environ: Mapping[str, str], address: str, seconds: float
) -> Finding:
    """Send one span through the exporter a worker would use."""
    from otel_celery_launcher.delivery.deadline import run_with_deadline
    from otel_celery_launcher.delivery.export_log import error_text
    from otel_celery_launcher.delivery.exporters import load_exporters
    from otel_celery_launcher.doctor.answers import Answers

    makers, problems = load_exporters(
        TRACES,
        settings.traces.exporters,
        redacts_exceptions=settings.redacts_exceptions,
    )
    if problems:
        return _not_importable(problems[0])
    try:
        exporters = [make() for make in makers.values()]
    except Exception as exc:  # noqa: BLE001 - the boundary: any exporter's constructor
        return _not_accepted(
            address, explain(error_text(exc), settings.traces.printable_path)
        )
    span = _test_span(settings.service_name)
    with Answers() as answers:

        def send() -> None:
            for exporter in exporters:
                answers.export(exporter, [span])
                exporter.shutdown()

        # Older exporters try again for a minute, and ignore their timeout.
        has_ended = run_with_deadline([send], seconds)
    if has_ended and answers.is_taken:
        return Finding(level=OK, check="test span", seen=f"{address} accepted it")
    silence = "no answer" if has_ended else f"no answer within {seconds:g} s"
    failure = explain(answers.last or silence, settings.traces.printable_path)
    return _not_accepted(
        address, _looked_at_closely(failure, settings, environ, seconds)
    )


def _looked_at_closely(
    failure: Failure, settings: Settings, environ: Mapping[str, str], seconds: float
) -> Failure:
    """Return a more precise failure, from a TLS handshake of our own."""
    if is_resolved_by_grpc(settings.traces.endpoint):
        return failure
    scheme, host, port = _address(settings)
    limit = min(seconds, HANDSHAKE_SECONDS)
    if scheme == "https" and failure.id in OF_TLS:
        return _look_at_tls(failure, environ, host, port, limit) or failure
    if scheme != "https" and failure.id in MAY_WANT_TLS:
        with suppress(OSError, ValueError):
            _shake_hands(host, port, limit)
            reason = "the server there speaks TLS"
            return Failure(reason, "write https:// instead of http://", "OC327")
    return failure


def _look_at_tls(
    failure: Failure, environ: Mapping[str, str], host: str, port: int, seconds: float
) -> Failure | None:
    """Return a failure of the certificates, or None if none is detected."""
    file = environ.get("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE") or environ.get(
        "OTEL_EXPORTER_OTLP_CERTIFICATE"
    )
    try:
        context = ssl.create_default_context(cafile=file)
        context.set_alpn_protocols(["h2"])
        with _shaken_hands(host, port, seconds, context) as connection:
            # With TLS 1.3 a client without a certificate is refused after its handshake;
            # a server of HTTP/2 speaks first.
            is_closed = not connection.recv(1)
    except ssl.SSLCertVerificationError as exc:
        if "mismatch" in exc.verify_message:
            reason = f"the collector's certificate is not for {host!r}"
            return Failure(
                reason, "write the name that the certificate is for", "OC326"
            )
        return explain(f"CERTIFICATE_VERIFY_FAILED: {exc.verify_message}")
    except (OSError, ValueError) as exc:
        is_closed = isinstance(exc, ConnectionError) or (
            explain(str(exc)).id == WANTS_CERTIFICATE
        )
    has_own = any(name in environ for name in CLIENT_CERTIFICATES)
    if not is_closed or has_own or failure.id != UNREACHED:
        return None
    return explain("certificate required: the connection ends after the handshake")
