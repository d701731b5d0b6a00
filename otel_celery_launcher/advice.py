# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Lines at the start about values that are good and likely mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.otlp_checks import split_endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence


def shown_endpoint(endpoint: str) -> str:
    """Return scheme, host and port: keys stand in user info, paths and queries."""
    try:
        parts = split_endpoint(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not shown)"
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return f"{scheme}{parts.hostname or '(not shown)'}{port}"


def endpoint_notes(protocol: str, endpoint: str, *, is_insecure: bool) -> list[str]:
    """Return likely mistakes in the endpoint, one line each."""
    notes = []
    has_scheme = "://" in endpoint
    port = split_endpoint(endpoint).port
    if protocol == "grpc" and port == 4318:
        notes.append(
            "the endpoint's port is 4318, where collectors speak HTTP, and the protocol"
            " is grpc; use port 4317 or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        )
    if protocol == "grpc" and not has_scheme and not is_insecure:
        notes.append(
            f"the endpoint {shown_endpoint(endpoint)!r} has no scheme, which means TLS;"
            " put http:// before it for a connection without"
        )
    if protocol == "http/protobuf" and not has_scheme:
        notes.append(
            f"the endpoint {shown_endpoint(endpoint)!r} has no scheme;"
            " put http:// or https:// before it"
        )
    return notes


def pool_notes(pool: str | None, exporters: Sequence[str]) -> list[str]:
    """Return what to know about this pool with inline export."""
    if pool not in ("gevent", "eventlet") or "otlp_proto_grpc" not in exporters:
        return []
    return [
        f"gRPC blocks the event loop of {pool} while it exports; set"
        " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (pip install"
        " 'otel-celery-launcher[http]')"
    ]
