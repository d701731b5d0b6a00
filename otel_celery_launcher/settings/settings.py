# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Settings, read once by the launcher into a frozen object.

``correct_environment`` (``corrections.py``) checks every variable of the tables and replaces
each bad value with one that works, before anything of OpenTelemetry is imported.
``Settings.from_environ`` then reads what is left. The SDK also reads its own variables,
``messages.py`` reads OTEL_CELERY_LOG_FORMAT and ``dotenv_files.py`` OTEL_CELERY_ENV_FILE.
``ipc/inherited.py`` lists what our own processes leave each other.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.settings import advice, checks
from otel_celery_launcher.settings import launcher_variables as own
from otel_celery_launcher.settings import signal_variables as of_signals
from otel_celery_launcher.settings import standard_variables as standard
from otel_celery_launcher.settings.otlp_checks import (
    endpoint_of,
    protocol_of,
    signal_value,
    split_endpoint,
)
from otel_celery_launcher.settings.task_globs import TaskGlobs
from otel_celery_launcher.settings.tasks import TaskSettings
from otel_celery_launcher.settings.unknown_variables import (
    misspelt_notes,
    unhandled_variables,
)
from otel_celery_launcher.settings.variable import Note
from otel_celery_launcher.signals import LOGS, METRICS, TRACES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_celery_launcher.command_line import CommandLine
    from otel_celery_launcher.signals import Signal

# By signal.
EXPORTERS = {
    TRACES: standard.TRACES_EXPORTER,
    METRICS: of_signals.METRICS_EXPORTER,
    LOGS: of_signals.LOGS_EXPORTER,
}

# The size of the SDK's queue, and that of one export. Metrics have no queue.
QUEUES = {
    TRACES: (standard.QUEUE_SIZE, standard.BATCH_SIZE),
    METRICS: (),
    LOGS: (of_signals.LOG_QUEUE_SIZE, of_signals.LOG_BATCH_SIZE),
}

OTLP_EXPORTERS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class Mode(str, Enum):
    """How telemetry leaves: which route it takes."""

    PROCESS = "process"
    INLINE = "inline"
    UNTIL_FORK = "until_fork"

    @property
    def explained(self) -> str:
        """The same in words, after ``spans leave``."""
        return _EXPLAINED[self]


_EXPLAINED = {
    Mode.PROCESS: "by an exporter process",
    Mode.INLINE: "by each process itself",
    Mode.UNTIL_FORK: "by itself until the first fork",
}


class SignalSettings(NamedTuple):
    """Where one signal goes.

    Attributes:
        exporters: Entry point names.
        endpoint: The OTLP endpoint.
        has_own_endpoint: Whether the endpoint is the signal's own, which is used as is.
        headers: The OTLP headers as written; a secret.
        path: For HTTP, the signal's path below an endpoint for all signals.
        pending_limit: Items that one of the SDK's queues can contain or be sending.
    """

    exporters: tuple[str, ...]
    endpoint: str
    has_own_endpoint: bool
    headers: str
    path: str
    pending_limit: int

    @property
    def sends_otlp(self) -> bool:
        """Whether an exporter sends to the endpoint."""
        return any(name.startswith("otlp_") for name in self.exporters)

    @property
    def url(self) -> str:
        """Where items go: by HTTP a path is added to what is not the signal's own."""
        if "otlp_proto_http" in self.exporters and not self.has_own_endpoint:
            return f"{self.endpoint.rstrip('/')}{self.path}"
        return self.endpoint

    @property
    def printable_path(self) -> str:
        """The path of ``url``, as it may be shown."""
        return advice.printable_path(split_endpoint(self.url).path)


class SpoolSettings(NamedTuple):
    """Where the exporter process keeps its queue in a file."""

    directory: str  # absolute; empty for none
    size: int  # bytes of the file


class MetricSettings(NamedTuple):
    """How metrics are made and exported."""

    interval: float  # seconds
    timeout: float  # seconds
    temporality: str  # cumulative, delta or lowmemory
    has_exponents: bool  # whether the buckets of histograms grow with the values
    exemplar_filter: str
    has_queues: bool  # whether the broker is asked for its queues
    has_older: bool  # contrib's histogram


class LogSettings(NamedTuple):
    """What leaves of log records."""

    level: int  # of ``logging``; records below it do not leave
    has_code: bool  # whether file, line and function leave


class Settings(NamedTuple):
    """What the launcher does, decided before the SDK is imported."""

    role: str
    is_program: bool  # one that is not Celery's command line
    service_name: str
    node: str
    mode: Mode
    signals: Mapping[Signal, SignalSettings]
    sampler: str
    sampler_argument: str | None
    id_generator: str
    disabled_instrumentations: Sequence[str]
    shutdown_seconds: float
    health_file: str  # empty for none
    spool: SpoolSettings
    metrics: MetricSettings
    logs: LogSettings
    log_correlation: bool  # ids in the text of log lines
    shows_contexts: bool  # a line for each inject and extract
    redacts_exceptions: bool
    client_roots: str  # whether a client's call begins a trace: auto, always, never
    has_duplicates: bool  # drivers record what SQLAlchemy records, too
    roots_per_second: float  # 0 for no bound
    tasks: TaskSettings
    has_instance_id: bool
    notes: tuple[Note, ...]  # one line each, for the start
    unhandled: tuple[str, ...]
    misspelt: tuple[str, ...]  # a line for each name

    @property
    def traces(self) -> SignalSettings:
        """Where spans go."""
        return self.signals[TRACES]

    @property
    def exports_metrics(self) -> bool:
        """Whether there are metrics."""
        return bool(self.signals[METRICS].exporters)

    @property
    def exports_logs(self) -> bool:
        """Whether log records leave."""
        return bool(self.signals[LOGS].exporters)

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

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        command_line: CommandLine,
        mode: str | None = None,
    ) -> Settings:
        """Read a corrected environment; a spawned child has the main process's mode."""
        role = command_line.role or ""
        service_name, notes = _service_name(environ, command_line)
        signals, signal_notes = _all_signals(environ)
        notes += signal_notes
        chosen = Mode(mode) if mode else _mode(environ, command_line, signals)
        return cls(
            role=role,
            is_program=command_line.is_program,
            service_name=service_name,
            node=as_text(command_line.node or role),
            mode=chosen,
            signals=signals,
            sampler=standard.TRACES_SAMPLER.read(environ),
            sampler_argument=standard.TRACES_SAMPLER_ARG.read(environ) or None,
            id_generator=standard.ID_GENERATOR.read(environ),
            disabled_instrumentations=standard.DISABLED_INSTRUMENTATIONS.read(environ),
            shutdown_seconds=own.SHUTDOWN_SECONDS.read(environ),
            health_file=own.HEALTH_FILE.read(environ),
            spool=_spool_settings(environ),
            metrics=_metric_settings(environ),
            logs=_log_settings(environ),
            log_correlation=standard.LOG_CORRELATION.read(environ),
            shows_contexts=standard.LOG_LEVEL.read(environ) == "debug",
            redacts_exceptions=not own.EXCEPTION_MESSAGES.read(environ),
            client_roots=own.CLIENT_ROOTS.read(environ),
            has_duplicates=own.DB_SPANS.read(environ) == "both",
            roots_per_second=own.ROOT_SPANS_PER_SECOND.read(environ),
            tasks=task_settings(environ),
            has_instance_id="service.instance.id" in _resource(environ),
            notes=(*notes, *_pool_notes(command_line, chosen, signals[TRACES])),
            unhandled=unhandled_variables(environ),
            misspelt=tuple(misspelt_notes(environ)),
        )


def _spool_settings(environ: Mapping[str, str]) -> SpoolSettings:
    directory = own.SPOOL_DIRECTORY.read(environ)
    # The exporter process works in another directory.
    path = os.path.abspath(directory) if directory else ""
    return SpoolSettings(directory=path, size=own.SPOOL_BYTES.read(environ))


def _metric_settings(environ: Mapping[str, str]) -> MetricSettings:
    aggregation = of_signals.HISTOGRAM_AGGREGATION.read(environ)
    return MetricSettings(
        interval=of_signals.METRIC_INTERVAL.read(environ),
        timeout=of_signals.METRIC_TIMEOUT.read(environ),
        temporality=of_signals.TEMPORALITY.read(environ),
        has_exponents=aggregation == "base2_exponential_bucket_histogram",
        exemplar_filter=of_signals.EXEMPLAR_FILTER.read(environ),
        has_queues=own.QUEUE_METRICS.read(environ),
        has_older=task_settings(environ).has_older_names,
    )


def _log_settings(environ: Mapping[str, str]) -> LogSettings:
    return LogSettings(
        level=of_signals.LOG_HANDLER_LEVEL.read(environ),
        has_code=of_signals.LOG_CODE_ATTRIBUTES.read(environ),
    )


def task_settings(environ: Mapping[str, str]) -> TaskSettings:
    """Read what is recorded about tasks from what ``correct_environment`` left."""
    new_traces = own.NEW_TRACE_TASKS.read(environ)
    if own.TRACE.read(environ) == "link":
        new_traces = [*new_traces, "*"]
    opt_in = standard.SEMCONV_STABILITY_OPT_IN.read(environ)
    return TaskSettings(
        sample=own.SAMPLE.read(environ),
        new_traces=TaskGlobs((glob, True) for glob in new_traces),
        arguments=own.CAPTURE_ARGS.read(environ),
        labels=own.TASK_NAME_FROM.read(environ),
        baggage=tuple(own.BAGGAGE_ATTRIBUTES.read(environ)),
        has_messaging_names="messaging" in opt_in or "messaging/dup" in opt_in,
        has_older_names="messaging" not in opt_in or "messaging/dup" in opt_in,
        has_plumbing=own.PLUMBING.read(environ),
    )


def as_text(value: str) -> str:
    """Return the value of a variable or an argument as text that is valid everywhere.

    Its bytes need not be UTF-8, and percent-encoding can hide a NUL.
    """
    return value.encode("utf-8", "replace").decode().replace("\0", "?")


def _service_name(
    environ: Mapping[str, str], command_line: CommandLine
) -> tuple[str, list[Note]]:
    """Return the name of the service, and what to say about it."""
    role = command_line.role or ""
    given = standard.SERVICE_NAME.read(environ) or _resource(environ).get(
        "service.name"
    )
    template = own.SERVICE_NAME.read(environ)
    if template:
        name = template.format(name=given or command_line.app_name, role=role)
    else:
        name = given or f"{command_line.app_name}-{role}"
    name = as_text(name)
    if not template and not given:
        note = f"no service name is set: using {checks.safe_repr(name)}; set OTEL_SERVICE_NAME=<name> and"
    elif role in name.lower():
        return name, []
    else:
        note = (
            f"the service name {checks.safe_repr(name)} does not contain the role {role!r},"
            " so worker, beat and producer look alike; set"
        )
    text = f'{note} OTEL_CELERY_SERVICE_NAME="{{name}}-{{role}}"'
    return name, [Note("service name", text)]


def _exporters(
    environ: Mapping[str, str], signal: Signal
) -> tuple[tuple[str, ...], list[Note]]:
    """Return entry point names of the exporters, and notes on those left out."""
    exporters: list[str] = []
    notes: list[Note] = []
    for name in _exporter_names(environ, signal):
        if name == "none":
            return (), []
        is_otlp = name == "otlp"
        entry_point = OTLP_EXPORTERS[protocol_of(environ, signal)] if is_otlp else name
        if not checks.is_installed(signal.exporter_group, entry_point):
            text = (
                f"the exporter {entry_point} is not installed: no {signal.items} leave"
                " through it; pip install 'otel-celery-launcher[http]'"
            )
            notes.append(Note("exporter", text))
        elif entry_point not in exporters:
            exporters.append(entry_point)
    return tuple(exporters), notes


def _exporter_names(environ: Mapping[str, str], signal: Signal) -> list[str]:
    """Return what the variable of a signal names, or what holds without it."""
    names = EXPORTERS[signal].read(environ)
    if names or signal is not METRICS:
        return names
    of_traces = standard.TRACES_EXPORTER.read(environ)
    prefix = "OTEL_EXPORTER_OTLP_"
    has_no_place = f"{prefix}TRACES_ENDPOINT" in environ and not any(
        f"{prefix}{name}ENDPOINT" in environ for name in ("", "METRICS_")
    )
    return [] if has_no_place else [name for name in of_traces if name == "otlp"]


def _signal_settings(
    environ: Mapping[str, str], signal: Signal
) -> tuple[SignalSettings, list[Note]]:
    """Return where a signal goes, and what to say about it."""
    exporters, notes = _exporters(environ, signal)
    own_endpoint = f"OTEL_EXPORTER_OTLP_{signal.name.upper()}_ENDPOINT"
    signal_settings = SignalSettings(
        exporters=exporters,
        endpoint=endpoint_of(environ, signal),
        has_own_endpoint=own_endpoint in environ,
        headers=signal_value(environ, signal, "HEADERS") or "",
        path=signal.path,
        pending_limit=sum(row.read(environ) for row in QUEUES[signal]),
    )
    return signal_settings, [*notes, *_endpoint_notes(environ, signal, signal_settings)]


def _endpoint_notes(
    environ: Mapping[str, str], signal: Signal, signal_settings: SignalSettings
) -> list[Note]:
    if not signal_settings.sends_otlp:
        return []
    texts = advice.endpoint_notes(
        protocol_of(environ, signal),
        signal_settings.endpoint,
        is_insecure=signal_value(environ, signal, "INSECURE") == "true",
    )
    return [Note("endpoint", text) for text in texts]


def _pool_notes(
    command_line: CommandLine, mode: Mode, traces: SignalSettings
) -> list[Note]:
    if mode is not Mode.INLINE:
        return []
    texts = advice.pool_notes(command_line.pool, traces.exporters)
    return [Note("pool", text) for text in texts]


def _all_signals(
    environ: Mapping[str, str],
) -> tuple[dict[Signal, SignalSettings], list[Note]]:
    """Return where each signal goes, and what to say: of an endpoint once."""
    traces, trace_notes = _signal_settings(environ, TRACES)
    signals, notes = {TRACES: traces}, list(trace_notes)
    for signal in (METRICS, LOGS):
        signals[signal], more = _signal_settings(environ, signal)
        notes += [note for note in more if note.about == "exporter"]
    return signals, notes


def _mode(
    environ: Mapping[str, str],
    command_line: CommandLine,
    signals: Mapping[Signal, SignalSettings],
) -> Mode:
    """Return how telemetry leaves; inline with no exporter, or spans or log records on the console."""
    export = own.EXPORT.read(environ)
    exporters = {name for each in signals.values() for name in each.exporters}
    on_console = (*signals[TRACES].exporters, *signals[LOGS].exporters)
    if "console" in on_console or exporters <= {"console"}:
        return Mode.INLINE
    if inherited.TREE in environ:  # gRPC and the exporters are not on the path here
        return Mode.PROCESS
    if export != "auto":
        return Mode(export)
    if command_line.is_program and command_line.role != "worker":
        return Mode.UNTIL_FORK
    return Mode.PROCESS if command_line.role == "worker" else Mode.INLINE


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    """Read OTEL_RESOURCE_ATTRIBUTES as the SDK's detector does."""
    pairs = (
        item.partition("=")
        for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    )
    return {key.strip(): unquote(value.strip()) for key, sep, value in pairs if sep}
