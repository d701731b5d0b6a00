# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Settings, read once by the launcher into a frozen object.

``correct_environment`` (``settings/corrections.py``) checks every variable of the table and puts a
value that works in the place of a bad one, before anything of OpenTelemetry is imported.
``Settings.from_environ`` then reads what is left. Nobody else reads the environment,
but for the SDK, which reads its own variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from otel_celery_launcher.delivery.failures import TRACES_PATH, shown_path
from otel_celery_launcher.settings import advice, checks
from otel_celery_launcher.settings.corrections import batch_sizes
from otel_celery_launcher.settings.otlp_checks import (
    default_endpoint,
    split_endpoint,
    traces_value,
)
from otel_celery_launcher.settings.tasks import TaskSettings
from otel_celery_launcher.settings.unknown_variables import (
    misspelt_notes,
    unhandled_variables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_celery_launcher.command_line import CommandLine

DEFAULT_SAMPLER = "parentbased_always_on"
ROOTS_PER_SECOND = 100
# Pools that run tasks in the main process and neither fork nor patch threads.
INLINE_POOLS = frozenset({"solo", "threads"})

# How spans leave, by the mode of the settings.
MODES = {
    "process": "by an exporter process",
    "inline": "by each process itself",
    "adaptive": "by itself until the first fork",
}

OTLP_EXPORTERS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the launcher does, decided before the SDK is imported."""

    role: str
    is_program: bool  # one that is not Celery's command line
    service_name: str
    node: str
    mode: str  # how spans leave: process, inline, adaptive (inline until a fork)
    exporters: tuple[str, ...]  # entry point names
    endpoint: str
    has_traces_endpoint: bool  # the traces' own endpoint is taken as it is
    headers: str  # as written; a secret
    sampler: str
    sampler_argument: str | None
    id_generator: str
    disabled_instrumentations: frozenset[str]
    pending_limit: int  # spans a BatchSpanProcessor can have on their way
    shutdown_seconds: float
    health_file: str  # empty for none
    log_correlation: bool  # ids in the text of log lines
    shows_contexts: bool  # a line for each inject and extract
    hides_exception_messages: bool
    client_roots: str  # whether a client's call begins a trace: auto, always, never
    has_duplicates: bool  # drivers record what SQLAlchemy records, too
    roots_per_second: float  # 0 for no bound
    tasks: TaskSettings
    has_instance_id: bool
    notes: tuple[str, ...]  # one line each, for the start
    endpoint_notes: tuple[str, ...]  # those of them that are about the endpoint
    unhandled: tuple[str, ...]
    misspelt: tuple[str, ...]  # a line for each name

    @property
    def sends_otlp(self) -> bool:
        """Whether an exporter sends to the endpoint."""
        return any(name.startswith("otlp_") for name in self.exporters)

    @property
    def has_ratio(self) -> bool:
        """Whether the sampler's argument is a ratio, which has been checked."""
        return self.sampler.endswith("traceidratio")

    @property
    def keeps_nothing(self) -> bool:
        """Whether the sampler keeps no trace that begins here."""
        if self.has_ratio:
            return float(self.sampler_argument or 1) == 0
        return self.sampler.endswith("always_off")

    @property
    def url(self) -> str:
        """Where spans go: by HTTP a path is added to what is not the traces' own."""
        if "otlp_proto_http" in self.exporters and not self.has_traces_endpoint:
            return f"{self.endpoint.rstrip('/')}{TRACES_PATH}"
        return self.endpoint

    @property
    def shown_path(self) -> str:
        """The path of ``url``, as it may be shown."""
        return shown_path(split_endpoint(self.url).path)

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], command_line: CommandLine
    ) -> Settings:
        """Build the settings from an environment that ``correct_environment`` left."""
        role = command_line.role or ""
        protocol = traces_value(environ, "PROTOCOL") or "grpc"
        endpoint = traces_value(environ, "ENDPOINT") or default_endpoint(environ)
        service_name, name_notes = _service_name(environ, command_line)
        exporters, exporter_notes = _exporters(environ, protocol)
        is_insecure = traces_value(environ, "INSECURE") == "true"
        endpoint_notes = (
            advice.endpoint_notes(protocol, endpoint, is_insecure=is_insecure)
            if any(each.startswith("otlp_") for each in exporters)
            else []
        )
        mode = _mode(environ, command_line, exporters)
        pool_notes = (
            advice.pool_notes(command_line.pool, exporters) if mode == "inline" else []
        )
        return cls(
            role=role,
            is_program=command_line.is_program,
            service_name=service_name,
            node=as_text(command_line.node or role),
            mode=mode,
            exporters=exporters,
            endpoint=endpoint,
            has_traces_endpoint="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in environ,
            headers=traces_value(environ, "HEADERS") or "",
            sampler=environ.get("OTEL_TRACES_SAMPLER") or DEFAULT_SAMPLER,
            sampler_argument=environ.get("OTEL_TRACES_SAMPLER_ARG"),
            id_generator=environ.get("OTEL_PYTHON_ID_GENERATOR") or "random",
            disabled_instrumentations=frozenset(
                checks.split_names(
                    environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "")
                )
            ),
            pending_limit=sum(batch_sizes(environ)),
            shutdown_seconds=float(environ.get("OTEL_CELERY_SHUTDOWN_SECONDS") or 5),
            log_correlation=environ.get("OTEL_PYTHON_LOG_CORRELATION") == "true",
            shows_contexts=environ.get("OTEL_LOG_LEVEL") == "debug",
            hides_exception_messages=environ.get("OTEL_CELERY_EXCEPTION_MESSAGES")
            == "false",
            client_roots=environ.get("OTEL_CELERY_CLIENT_ROOTS", "auto"),
            has_duplicates=environ.get("OTEL_CELERY_DB_SPANS") == "both",
            roots_per_second=float(
                environ.get("OTEL_CELERY_ROOT_SPANS_PER_SECOND") or ROOTS_PER_SECOND
            ),
            tasks=TaskSettings.from_environ(environ),
            health_file=environ.get("OTEL_CELERY_HEALTH_FILE") or "",
            has_instance_id="service.instance.id" in _resource(environ),
            notes=(*name_notes, *exporter_notes, *endpoint_notes, *pool_notes),
            endpoint_notes=tuple(endpoint_notes),
            unhandled=unhandled_variables(environ),
            misspelt=tuple(misspelt_notes(environ)),
        )


def as_text(value: str) -> str:
    """Return what a variable or an argument holds as text that every reader takes.

    Their bytes need not be UTF-8; percent-encoding can even hide a NUL in them.
    """
    return value.encode("utf-8", "replace").decode().replace("\0", "?")


def _service_name(
    environ: Mapping[str, str], command_line: CommandLine
) -> tuple[str, list[str]]:
    """Return the name of the service, and what to say about it."""
    role = command_line.role or ""
    given = environ.get("OTEL_SERVICE_NAME") or _resource(environ).get("service.name")
    template = environ.get("OTEL_CELERY_SERVICE_NAME")
    if template:
        name = template.format(name=given or command_line.app_name, role=role)
    else:
        name = given or f"{command_line.app_name}-{role}"
    name = as_text(name)
    if not template and not given:
        note = f"no service name is set: using {checks.shown(name)}; set OTEL_SERVICE_NAME=<name> and"
    elif role in name.lower():
        return name, []
    else:
        note = (
            f"the service name {checks.shown(name)} does not tell the role {role!r}, so"
            " worker, beat and producer look alike; set"
        )
    return name, [f'{note} OTEL_CELERY_SERVICE_NAME="{{name}}-{{role}}"']


def _exporters(
    environ: Mapping[str, str], protocol: str
) -> tuple[tuple[str, ...], list[str]]:
    """Return entry point names of the exporters, and notes on those left out."""
    exporters: list[str] = []
    notes: list[str] = []
    for name in checks.split_names(environ.get("OTEL_TRACES_EXPORTER") or "otlp"):
        if name == "none":
            return (), []
        entry_point = OTLP_EXPORTERS[protocol] if name == "otlp" else name
        if not checks.is_installed("opentelemetry_traces_exporter", entry_point):
            notes.append(
                f"the exporter {entry_point} is not installed: no spans leave through it;"
                " pip install 'otel-celery-launcher[http]'"
            )
        elif entry_point not in exporters:
            exporters.append(entry_point)
    return tuple(exporters), notes


def _mode(
    environ: Mapping[str, str], command_line: CommandLine, exporters: Sequence[str]
) -> str:
    """Return how spans leave; the console exporter writes to this process's output."""
    mode = environ.get("OTEL_CELERY_EXPORT", "auto")
    if not exporters or "console" in exporters:
        return "inline"
    if mode == "auto" and command_line.is_program and command_line.role != "worker":
        return "adaptive"
    if mode == "auto":
        forks = command_line.role == "worker" and command_line.pool not in INLINE_POOLS
        return "process" if forks else "inline"
    return mode


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    """Read OTEL_RESOURCE_ATTRIBUTES as the SDK's detector does."""
    pairs = (
        item.partition("=")
        for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    )
    return {key.strip(): unquote(value.strip()) for key, sep, value in pairs if sep}
