# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Which headers of a request a gRPC call can carry on, and in which form.

gRPC raises, or fails the call, for what is not of the form it wants; a client of HTTP
may send any header.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Headers of one connection, which the next one has of its own.
_HOP = (
    "accept",
    "accept-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "expect",
    "user-agent",
    "content-type",
    "content-length",
    "content-encoding",
    "te",
    "host",
)

# What a gRPC server takes for certain is 8 KiB with 32 bytes for each header (RFC 9113,
# SETTINGS_MAX_HEADER_LIST_SIZE); some are the call's own.
_METADATA_BYTES = 7 * 1024
_HEADER_BYTES = 32

# gRPC over HTTP/2, "Custom-Metadata".
_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


def as_metadata(
    headers: Iterable[tuple[str, str | bytes]],
) -> list[tuple[str, str | bytes]]:
    """Return the headers that are handed on; what a call cannot carry is left out."""
    metadata: list[tuple[str, str | bytes]] = []
    room = _METADATA_BYTES
    for name, value in headers:
        header = _header(name.lower(), value)
        if header is None:
            continue
        size = len(header[0]) + len(header[1]) + _HEADER_BYTES
        if size <= room:
            room -= size
            metadata.append(header)
    return metadata


def _header(name: str, value: str | bytes) -> tuple[str, str | bytes] | None:
    if name in _HOP or name.startswith("grpc-") or not _NAME.fullmatch(name):
        return None
    if name.endswith("-bin"):
        content = value if isinstance(value, bytes) else _decoded(value)
        return None if content is None else (name, content)
    if isinstance(value, bytes) or not _VALUE.fullmatch(value):
        return None
    return name, value


def _decoded(value: str) -> bytes | None:
    """Return the bytes of a binary header as HTTP writes it: base64, padded or not."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
