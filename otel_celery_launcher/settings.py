# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Settings, read once by the launcher into a frozen object.

``correct_environment`` checks every variable of the table and puts a value that works
in the place of a bad one, before anything of OpenTelemetry is imported.
``Settings.from_environ`` then reads what is left. Nobody else reads the environment,
but for the SDK, which reads its own variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from otel_celery_launcher import advice, checks
from otel_celery_launcher.checks import BadValueError
from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.own_variables import Variable
from otel_celery_launcher.task_settings import TaskSettings
from otel_celery_launcher.unhandled import unhandled_variables
from otel_celery_launcher.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from otel_celery_launcher.roles import CommandLine

DEFAULT_SAMPLER = "parentbased_always_on"
DEFAULT_ENDPOINTS = {
    "grpc": "http://localhost:4317",
    "http/protobuf": "http://localhost:4318",
}
_TRACES_COMPRESSION = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"

# Pools that run tasks in the main process and neither fork nor patch threads.
INLINE_POOLS = frozenset({"solo", "threads"})

OTLP_EXPORTERS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the launcher does, decided before the SDK is imported."""

    role: str
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
    tasks: TaskSettings
    has_instance_id: bool
    notes: tuple[str, ...]  # one line each, for the start
    unhandled: tuple[str, ...]

    @property
    def sends_otlp(self) -> bool:
        """Whether an exporter sends to the endpoint."""
        return any(name.startswith("otlp_") for name in self.exporters)

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], command_line: CommandLine
    ) -> Settings:
        """Build the settings from an environment that ``correct_environment`` left."""
        role = command_line.role or ""
        protocol = _otlp(environ, "PROTOCOL") or "grpc"
        endpoint = _otlp(environ, "ENDPOINT") or DEFAULT_ENDPOINTS[protocol]
        service_name, name_notes = _service_name(environ, command_line)
        exporters, exporter_notes = _exporters(environ, protocol)
        otlp_notes = (
            advice.endpoint_notes(
                protocol, endpoint, is_insecure=_otlp(environ, "INSECURE") == "true"
            )
            if exporters
            else []
        )
        mode = _mode(environ, command_line, exporters)
        pool_notes = (
            advice.pool_notes(command_line.pool, exporters) if mode == "inline" else []
        )
        return cls(
            role=role,
            service_name=service_name,
            node=command_line.node or role,
            mode=mode,
            exporters=exporters,
            endpoint=endpoint,
            has_traces_endpoint="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in environ,
            headers=_otlp(environ, "HEADERS") or "",
            sampler=environ.get("OTEL_TRACES_SAMPLER") or DEFAULT_SAMPLER,
            sampler_argument=environ.get("OTEL_TRACES_SAMPLER_ARG"),
            id_generator=environ.get("OTEL_PYTHON_ID_GENERATOR") or "random",
            disabled_instrumentations=frozenset(
                checks.split_names(
                    environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "")
                )
            ),
            pending_limit=sum(_batch_sizes(environ)),
            shutdown_seconds=float(environ.get("OTEL_CELERY_SHUTDOWN_SECONDS") or 5),
            log_correlation=environ.get("OTEL_PYTHON_LOG_CORRELATION") == "true",
            shows_contexts=environ.get("OTEL_LOG_LEVEL") == "debug",
            hides_exception_messages=environ.get("OTEL_CELERY_EXCEPTION_MESSAGES")
            == "false",
            tasks=TaskSettings.from_environ(environ),
            health_file=environ.get("OTEL_CELERY_HEALTH_FILE") or "",
            has_instance_id="service.instance.id" in _resource(environ),
            notes=(*name_notes, *exporter_notes, *otlp_notes, *pool_notes),
            unhandled=unhandled_variables(environ),
        )


def correct_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Put a value that works in the place of each bad one; return a line for each.

    An empty value becomes unset: some readers in the SDK tell the two apart.
    """
    problems: list[str] = []
    for variable in VARIABLES:
        value = environ.get(variable.name)
        if value is None:
            continue
        stripped = value.strip()
        try:
            corrected = variable.check(stripped) if stripped else None
        except BadValueError as bad:
            corrected = bad.instead
            problems.append(_bad_value_line(variable, value, bad))
        _put(environ, variable.name, corrected)
    problems += _correct_together(environ)
    return problems


def prepare_environment(environ: MutableMapping[str, str]) -> list[str]:
    """Correct the environment; return a line for each bad value.

    Raises:
        LauncherError: There is one, with OTEL_CELERY_STRICT=true.
    """
    problems = correct_environment(environ)
    if problems and environ.get("OTEL_CELERY_STRICT") == "true":
        raise LauncherError(
            "; ".join(problems),
            "correct it, or unset OTEL_CELERY_STRICT to start without",
        )
    return problems


def _correct_together(environ: MutableMapping[str, str]) -> list[str]:
    """Correct what only two variables together show to be bad."""
    problems = []
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "")
    if argument is not None:
        try:
            checks.sampler_argument(argument, sampler)
        except BadValueError as bad:
            _put(environ, "OTEL_TRACES_SAMPLER_ARG", bad.instead)
            problems.append(
                f"OTEL_TRACES_SAMPLER_ARG is {argument!r}: expected {bad.expected}"
                f" for {sampler}; using {bad.instead}"
            )
    if (_otlp(environ, "PROTOCOL") or "grpc") == "grpc":
        for name in ("OTEL_EXPORTER_OTLP_COMPRESSION", _TRACES_COMPRESSION):
            if environ.get(name) == "deflate":
                del environ[name]
                problems.append(
                    f"{name} is 'deflate': expected none or gzip with grpc; using none"
                )
    queue, batch = _batch_sizes(environ)
    if batch > queue:
        if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in environ:
            problems.append(
                f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '{batch}': expected at most"
                f" OTEL_BSP_MAX_QUEUE_SIZE; using {queue}"
            )
        environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = str(queue)
    return problems


def _batch_sizes(environ: Mapping[str, str]) -> tuple[int, int]:
    """Return the sizes of the BatchSpanProcessor's queue and of one batch."""
    return (
        int(environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048),
        int(environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or 512),
    )


def _put(environ: MutableMapping[str, str], name: str, value: str | None) -> None:
    if value is None:
        environ.pop(name, None)
    elif environ.get(name) != value:
        environ[name] = value


def _bad_value_line(variable: Variable, value: str, bad: BadValueError) -> str:
    if variable.secret:
        shown = "set (value not shown)"
    else:
        is_endpoint = variable.name.endswith("_ENDPOINT")
        shown = repr(advice.shown_endpoint(value) if is_endpoint else value)
    if bad.instead is None:
        used = "nothing" if variable.default == "unset" else variable.default
    else:
        used = "its other items" if variable.secret else bad.instead
    return f"{variable.name} is {shown}: expected {bad.expected}; using {used}"


def _service_name(
    environ: Mapping[str, str], command_line: CommandLine
) -> tuple[str, list[str]]:
    role = command_line.role or ""
    given = environ.get("OTEL_SERVICE_NAME") or _resource(environ).get("service.name")
    template = environ.get("OTEL_CELERY_SERVICE_NAME")
    if template:
        name = template.format(name=given or command_line.app_name, role=role)
    elif given:
        name = given
    else:
        name = f"{command_line.app_name}-{role}"
        return name, [
            f"no service name is set: using {name!r}; set OTEL_SERVICE_NAME=<name> and"
            ' OTEL_CELERY_SERVICE_NAME="{name}-{role}"'
        ]
    if role in name.lower():
        return name, []
    return name, [
        f"the service name {name!r} does not tell the role {role!r}, so worker, beat and"
        ' producer look alike; set OTEL_CELERY_SERVICE_NAME="{name}-{role}"'
    ]


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
    if mode == "auto" and command_line.is_hosted and command_line.role != "worker":
        return "adaptive"
    if mode == "auto":
        forks = command_line.role == "worker" and command_line.pool not in INLINE_POOLS
        return "process" if forks else "inline"
    return mode


def _otlp(environ: Mapping[str, str], suffix: str) -> str | None:
    return environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{suffix}") or environ.get(
        f"OTEL_EXPORTER_OTLP_{suffix}"
    )


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    """Read OTEL_RESOURCE_ATTRIBUTES as the SDK's detector does."""
    pairs = (
        item.partition("=")
        for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    )
    return {key.strip(): unquote(value.strip()) for key, sep, value in pairs if sep}
