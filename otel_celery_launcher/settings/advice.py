# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Lines at the start about values that are good and likely mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.settings import checks
from otel_celery_launcher.settings.otlp_checks import (
    is_resolved_by_grpc,
    split_endpoint,
)
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_celery_launcher.command_line import CommandLine


NOT_SHOWN = "(not shown)"

# By which Celery has a configuration without an application (celery ``bin/celery.py``).
CONFIGURING_VARIABLES = (
    "CELERY_CONFIG_MODULE",
    "CELERY_BROKER_URL",
    "CELERY_LOADER",
)
CONFIGURING_OPTIONS = ("-b", "--broker", "--config", "--loader")


def printable_endpoint(endpoint: str) -> str:
    """Return scheme, host and port, since user info, path and query may contain keys.

    A target in gRPC's own notation is returned whole: it has none of these.
    """
    if not checks.is_printable(endpoint):
        return NOT_SHOWN
    try:
        parts = split_endpoint(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return NOT_SHOWN
    if is_resolved_by_grpc(endpoint):
        has_keys = "@" in endpoint or "?" in endpoint
        return f"{parts.scheme}:{NOT_SHOWN}" if has_keys else endpoint
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    host = parts.hostname or NOT_SHOWN
    return f"{scheme}[{host}]{port}" if ":" in host else f"{scheme}{host}{port}"


def printable_path(path: str) -> str:
    """Return a path as it may be shown: keys of some vendors stand in it."""
    if path == TRACES.path:
        return path
    return f"…{TRACES.path}" if path.endswith(TRACES.path) else "that you gave"


def endpoint_notes(protocol: str, endpoint: str, *, is_insecure: bool) -> list[str]:
    """Return likely mistakes in the endpoint, one line each."""
    notes = []
    has_scheme = endpoint.lower().startswith(("http://", "https://"))
    if protocol == "grpc" and split_endpoint(endpoint).port == 4318:
        notes.append(
            "the endpoint's port is 4318, where collectors speak HTTP, and the protocol"
            " is grpc; use port 4317 or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        )
    if protocol == "grpc" and not has_scheme and not is_insecure:
        notes.append(_means_tls(endpoint))
    if protocol == "http/protobuf" and not has_scheme:
        notes.append(
            f"the endpoint {printable_endpoint(endpoint)!r} has no scheme;"
            " put http:// or https:// before it"
        )
    return notes


def _means_tls(endpoint: str) -> str:
    address = repr(printable_endpoint(endpoint))
    if is_resolved_by_grpc(endpoint):
        return (
            f"the endpoint {address} is no http:// URL, which means TLS; set"
            " OTEL_EXPORTER_OTLP_INSECURE=true for a connection without"
        )
    return (
        f"the endpoint {address} has no scheme, which means TLS;"
        " put http:// before it for a connection without"
    )


def pool_notes(pool: str | None, exporters: Sequence[str]) -> list[str]:
    """Return what to know about this pool with inline export."""
    if pool not in ("gevent", "eventlet") or "otlp_proto_grpc" not in exporters:
        return []
    return [
        f"gRPC blocks the event loop of {pool} while it exports; set"
        " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (pip install"
        " 'otel-celery-launcher[http]')"
    ]


def application_notes(
    command_line: CommandLine, environ: Mapping[str, str]
) -> list[str]:
    """Return a note where a worker or beat has no application and no configuration.

    Celery starts one of its own then, which looks for RabbitMQ on this machine
    (celery ``app/base.py``, ``loaders/default.py``).
    """
    if command_line.app or command_line.role not in ("worker", "beat"):
        return []
    if any(name in environ for name in CONFIGURING_VARIABLES) or any(
        word.startswith(CONFIGURING_OPTIONS) for word in command_line.global_words
    ):
        return []
    if (Path(command_line.workdir or "") / "celeryconfig.py").is_file():
        return []
    return [
        "no application is given: Celery starts without your tasks and your broker; type"
        f" otel-celery -A <app> {command_line.role}"
    ]
