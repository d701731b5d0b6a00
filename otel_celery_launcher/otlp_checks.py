# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the OTLP exporter's values: see ``checks.py``."""

from __future__ import annotations

import math
import os
import re
from importlib.metadata import version
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from otel_celery_launcher.checks import BadValueError, number

# Targets that gRPC resolves itself (grpc, doc/naming.md).
GRPC_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")

# Before, the exporters read their timeout by int() (1.30); rounding up is harmless
# where they do no more.
FLOAT_TIMEOUTS_SINCE = (1, 40)

# gRPC's own rule for metadata keys and values (grpc core, validate_metadata.cc).
_HEADER_KEY = re.compile(r"[0-9a-z_.\-]+\Z")
_HEADER_VALUE = re.compile(r"[ -~]*\Z")


def split_endpoint(endpoint: str) -> SplitResult:
    """Return the parts of an endpoint, with or without scheme.

    Raises:
        ValueError: Brackets that do not match.
    """
    return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")


def timeout(value: str) -> str:
    """Accept a number of seconds over 0; older exporters take whole ones only."""
    number(0, 3600, over=True)(value)
    if _version("opentelemetry-exporter-otlp-proto-grpc") < FLOAT_TIMEOUTS_SINCE:
        return str(math.ceil(float(value)))
    return value


def _version(distribution: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(distribution).split(".")[:2])


def endpoint(value: str) -> str:
    """Accept a URL, or host and port."""
    if value.startswith(GRPC_SCHEMES):
        return value
    try:
        parts = split_endpoint(value)
        usable = bool(parts.hostname) and parts.scheme in ("", "http", "https")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        usable = False
    if not usable or " " in value:
        raise BadValueError("a URL such as http://collector:4317", None)
    return value


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


def compression(value: str) -> str | None:
    """Accept none, gzip, deflate. The gRPC exporter raises on the word none."""
    lowered = value.lower()
    if lowered == "none":
        return None
    if lowered in ("gzip", "deflate"):
        return lowered
    raise BadValueError("none or gzip", None)


def readable_file(value: str) -> str:
    """Accept a file this process can read."""
    if Path(value).is_file() and os.access(value, os.R_OK):
        return value
    raise BadValueError("a readable PEM file", None)
