# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the OTLP exporter's values: see ``settings/checks.py``."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from otel_celery_launcher.settings.checks import BadValueError, number, release_of
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_celery_launcher.signals import Signal

# Targets that gRPC resolves itself (grpc, doc/naming.md).
GRPC_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")

DEFAULT_PROTOCOL = "grpc"
DEFAULT_ENDPOINTS = {
    "grpc": "http://localhost:4317",
    "http/protobuf": "http://localhost:4318",
}

# Earlier exporters parse their timeout with int() (seen in 1.30); rounding up is
# harmless for releases that no longer do.
FLOAT_TIMEOUTS_SINCE = (1, 40)

# gRPC's own rule for metadata keys and values (grpc core, validate_metadata.cc).
_HEADER_KEY = re.compile(r"[0-9a-z_.\-]+\Z")
_HEADER_VALUE = re.compile(r"[ -~]*\Z")


def signal_value(environ: Mapping[str, str], signal: Signal, suffix: str) -> str | None:
    """Return the value that is in force for a signal: its own, else all signals'."""
    own = f"OTEL_EXPORTER_OTLP_{signal.name.upper()}_{suffix}"
    return environ.get(own) or environ.get(f"OTEL_EXPORTER_OTLP_{suffix}")


def protocol_of(environ: Mapping[str, str], signal: Signal) -> str:
    """Return the protocol that is in force for a signal.

    The endpoint for all signals speaks one protocol. Where only that of spans is said, it
    is taken for all.
    """
    of_traces = environ.get(f"OTEL_EXPORTER_OTLP_{TRACES.name.upper()}_PROTOCOL")
    return signal_value(environ, signal, "PROTOCOL") or of_traces or DEFAULT_PROTOCOL


def endpoint_of(environ: Mapping[str, str], signal: Signal) -> str:
    """Return where a signal goes, with the default of its protocol."""
    default = DEFAULT_ENDPOINTS[protocol_of(environ, signal)]
    return signal_value(environ, signal, "ENDPOINT") or default


def is_resolved_by_grpc(endpoint: str) -> bool:
    """Return whether an endpoint is a target in gRPC's own notation, not a URL."""
    return endpoint.startswith(GRPC_SCHEMES)


def split_endpoint(endpoint: str) -> SplitResult:
    """Return the parts of an endpoint, with or without scheme.

    A target that gRPC resolves itself has no single host and port, such as
    ``ipv4:10.0.0.1:4317,10.0.0.2:4317``. It is returned whole as the path.

    Raises:
        ValueError: Brackets that do not match.
    """
    if is_resolved_by_grpc(endpoint):
        scheme, _, path = endpoint.partition(":")
        return SplitResult(scheme, "", path, "", "")
    return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")


def timeout(value: str) -> str:
    """Accept a number of seconds over 0; older exporters take whole ones only."""
    number(0, 3600, over=True)(value)
    if release_of("opentelemetry-exporter-otlp-proto-grpc") < FLOAT_TIMEOUTS_SINCE:
        return str(math.ceil(float(value)))
    return value


def endpoint(value: str) -> str:
    """Accept a URL, host and port, or a target of gRPC's.

    Nothing else reaches the exporters: they split it by ``urlparse``, too, and hand it
    to gRPC as UTF-8.
    """
    if not value.isprintable() or not _is_endpoint(value):
        raise BadValueError("a URL such as http://collector:4317")
    return value


def _is_endpoint(value: str) -> bool:
    try:
        urlsplit(value)  # as the exporters do
        if is_resolved_by_grpc(value):
            return value not in GRPC_SCHEMES
        parts = split_endpoint(value)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return False
    is_url = bool(parts.hostname) and parts.scheme in ("", "http", "https")
    return is_url and " " not in value


def headers(value: str) -> str | None:
    """Accept key=value pairs that gRPC and HTTP can carry; never shows a value."""
    good: list[str] = []
    bad: list[str] = []
    for position, item in enumerate(value.split(","), start=1):
        name, separator, raw = item.partition("=")
        key = unquote(name).strip().lower()
        if not item.strip():
            continue
        if separator and _HEADER_KEY.match(key) and _HEADER_VALUE.match(unquote(raw)):
            good.append(item)
        else:
            bad.append(f"item {position}")
    if bad:
        raise BadValueError(
            f"key=value pairs, percent-encoded, separated by commas; {', '.join(bad)} is none",
            ",".join(good) or None,
        )
    return value


def insecure(value: str) -> str:
    """Accept true or false; for anything else the endpoint's scheme decides."""
    if value.lower() in ("true", "false"):
        return value.lower()
    raise BadValueError("true or false")


def compression(value: str) -> str | None:
    """Accept none, gzip, deflate. The gRPC exporter raises on the word none."""
    lowered = value.lower()
    if lowered == "none":
        return None
    if lowered in ("gzip", "deflate"):
        return lowered
    raise BadValueError("none or gzip")


def readable_file(value: str) -> str:
    """Accept the path of a file this process can read; never shows a value.

    Users may paste a key instead of its path; such a name is too long for a file.
    """
    try:
        is_readable = Path(value).is_file() and os.access(value, os.R_OK)
    except (OSError, ValueError):
        is_readable = False
    if not is_readable:
        raise BadValueError("the path of a readable PEM file")
    return value
