# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The collector: the form of its address, name, port, TLS, and a span it takes."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING

from otel_celery_launcher import advice
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.otlp_checks import split_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_celery_launcher.settings import Settings

# gRPC takes these for the collector, too (grpc, core/lib: http_proxy_mapper).
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

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
    if not settings.sends_otlp:
        what = ", ".join(settings.exporters) or "none"
        return [
            Finding(level=WARN, check="collector", seen=f"no OTLP exporter: {what}")
        ]
    shown = advice.shown_endpoint(settings.endpoint)
    found = _form(settings, environ, source)
    step = _reach(settings, shown, seconds)
    found.append(step)
    if step.level == OK:
        found.append(_send(settings, shown, seconds))
    return found


def _form(settings: Settings, environ: Mapping[str, str], source: str) -> list[Finding]:
    protocol = "grpc" if "otlp_proto_grpc" in settings.exporters else "http/protobuf"
    notes = advice.endpoint_notes(protocol, settings.endpoint, is_insecure=False)
    found = [
        Finding(level=WARN, check="endpoint", seen=note, source=source)
        for note in notes
    ]
    proxies = [name for name in PROXY_VARIABLES if environ.get(name)]
    if proxies and protocol == "grpc" and "no_proxy" not in environ:
        found.append(
            Finding(
                level=WARN,
                check="endpoint",
                seen=f"gRPC goes through the proxy of {proxies[0]}",
                source="environment",
                next=f"no_proxy={split_endpoint(settings.endpoint).hostname}",
            )
        )
    if not found:
        shown = advice.shown_endpoint(settings.endpoint)
        seen = f"{shown}, {protocol}"
        found.append(Finding(level=OK, check="endpoint", seen=seen, source=source))
    return found


def _reach(settings: Settings, shown: str, seconds: float) -> Finding:
    """Resolve the name, connect, and shake hands where the address says TLS."""
    parts = split_endpoint(settings.endpoint)
    host = parts.hostname or ""
    port = parts.port or PORTS.get(parts.scheme, 4317)
    end = time.monotonic() + seconds
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return _unreached(
            shown, f"the name {host!r} is not known here ({exc.strerror})"
        )
    try:
        with socket.create_connection((host, port), max(0.1, end - time.monotonic())):
            pass
    except OSError as exc:
        address = addresses[0][4][0]
        return _unreached(shown, f"{address} port {port}: {exc.strerror or exc}")
    if parts.scheme == "https":
        try:
            _shake_hands(host, port, max(0.1, end - time.monotonic()))
        except (OSError, ssl.SSLError) as exc:
            return _unreached(shown, f"TLS: {exc}")
    seen = f"{shown} is reached, {len(addresses)} address(es)"
    return Finding(level=OK, check="collector", seen=seen)


def _shake_hands(host: str, port: int, seconds: float) -> None:
    """Shake hands; whether the certificate is trusted, the test span tells."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), seconds) as connection,
        context.wrap_socket(connection, server_hostname=host),
    ):
        pass


def _unreached(shown: str, why: str) -> Finding:
    return Finding(
        level=FAIL,
        check="collector",
        seen=f"{shown} is not reached: {why}",
        next="start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
    )


def _send(settings: Settings, shown: str, seconds: float) -> Finding:
    """Send one span through the exporter a worker would use."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from otel_celery_launcher.doctor.answers import Answers
    from otel_celery_launcher.exporter.bounded import run_bounded
    from otel_celery_launcher.exporter.exporters import load_exporter_classes

    classes, problems = load_exporter_classes(
        settings.exporters, hides_messages=settings.hides_exception_messages
    )
    if problems:
        return Finding(level=FAIL, check="test span", seen=problems[0], is_setting=True)
    with Answers() as answers:
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # whatever the settings keep
            resource=Resource.create({"service.name": settings.service_name}),
            shutdown_on_exit=False,
        )
        for make in classes:
            provider.add_span_processor(SimpleSpanProcessor(answers.watch(make())))

        def send() -> None:
            provider.get_tracer("otel-celery").start_span("otel-celery doctor").end()
            provider.shutdown()

        # Older exporters try again for a minute, whatever their timeout is.
        has_ended = run_bounded([send], seconds)
    if has_ended and answers.is_taken:
        return Finding(level=OK, check="test span", seen=f"{shown} has taken it")
    silence = "no answer" if has_ended else f"no answer within {seconds:g} s"
    return Finding(
        level=FAIL,
        check="test span",
        seen=f"{shown} has not taken it: {answers.last or silence}",
        next="look at the collector's log; check protocol, port and headers",
    )
