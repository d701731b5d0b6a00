"""Who is compared: each in an environment of its own, below .venv-bench."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv-bench"

_OURS = (".[redis]",)

# What the OpenTelemetry ones have in common.
_OTEL = (
    "celery[redis]",
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-instrumentation-celery",
)
_ONLY_TRACES = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


@dataclass(frozen=True)
class Variant:
    """One way to run a worker.

    Attributes:
        name: In tables.
        folder: Of its environment.
        packages: What is installed there.
        before: What stands before ``celery`` or ``python`` on a command line.
        worker: The command of a worker, where it is not ``before`` and ``celery``.
        runs_python: Whether ``before`` is followed by a script or by ``-m`` and a module.
        environ: Variables; ``{grpc}`` and ``{http}`` are ports of its receiver.
        makes_spans: Whether the bench's inner spans, made by OpenTelemetry's API, are its.
        counts: Whether its spans can be counted.
    """

    name: str
    folder: str
    packages: tuple[str, ...]
    before: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    runs_python: bool = False
    environ: dict[str, str] = field(default_factory=dict)
    makes_spans: bool = True
    counts: bool = True

    @property
    def bin(self) -> Path:
        return FOLDER / self.folder / "bin"

    def celery(self) -> list[str]:
        """Return what ``celery`` is to this variant."""
        if self.runs_python:
            return [str(self.bin / self.before[0]), *self.before[1:], "-m", "celery"]
        return self._commands(*(self.worker or (*self.before, "celery")))

    def python(self) -> list[str]:
        """Return what ``python`` is to this variant."""
        if self.runs_python:
            return [str(self.bin / self.before[0]), *self.before[1:]]
        return self._commands(*self.before, "python")

    def _commands(self, *words: str) -> list[str]:
        """Return words, those that are programs of the environment by their paths."""
        paths = (self.bin / each for each in words)
        return [
            str(path) if path.exists() else word
            for path, word in zip(paths, words, strict=True)
        ]

    def variables(self, grpc: int, http: int) -> dict[str, str]:
        return {
            key: value.format(grpc=grpc, http=http)
            for key, value in self.environ.items()
        }

    def install(self) -> bool:
        """Make the environment; return whether that can be done here."""
        done = FOLDER / self.folder / "installed"
        wanted = "\n".join(self.packages)
        is_there = done.exists() and done.read_text() == wanted
        if is_there and self.packages != _OURS:  # which change
            return True
        python = self.bin / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        try:
            if not python.exists():
                subprocess.run(
                    [sys.executable, "-m", "venv", python.parent.parent], check=True
                )
            subprocess.run([*pip, *self.packages], cwd=ROOT, check=True)
            if self.packages == _OURS:
                again = ("--force-reinstall", "--no-deps", ".")
                subprocess.run([*pip, *again], cwd=ROOT, check=True)
        except subprocess.CalledProcessError:
            return False
        done.write_text(wanted)
        return True


_GRPC = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:{grpc}"}
# The interface alone: what the inner spans of an application cost without any SDK.
CELERY = Variant(
    "celery", "celery", ("celery[redis]", "opentelemetry-api"), counts=False
)
# The same once more: what it differs by is what the others' figures are worth.
CONTROL = replace(CELERY, name="celery, again")
# What a worker without the launcher pays for what is installed: redis-py imports the SDK
# where it finds it.
BESIDE = replace(
    CELERY, name="celery, the SDK beside it", folder="otel-celery", packages=_OURS
)
PROCESS = Variant(
    "otel-celery", "otel-celery", _OURS,
    before=("otel-celery", "exec"), worker=("otel-celery",), environ=_GRPC,
)  # fmt: skip
INLINE = Variant(
    "otel-celery, inline", "otel-celery", _OURS,
    before=("otel-celery", "exec"), worker=("otel-celery",),
    environ=_GRPC | {"OTEL_CELERY_EXPORT": "inline"},
)  # fmt: skip
UPSTREAM = Variant(
    "opentelemetry-instrument", "opentelemetry", _OTEL,
    before=("opentelemetry-instrument",), environ=_GRPC | _ONLY_TRACES,
)  # fmt: skip
SPLUNK = Variant(
    "Splunk distro", "splunk",
    ("celery[redis]", "splunk-opentelemetry", "opentelemetry-instrumentation-celery"),
    before=("opentelemetry-instrument",),
    environ=_GRPC | _ONLY_TRACES | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
)  # fmt: skip
LOGFIRE = Variant(
    "logfire run", "logfire", ("celery[redis]", "logfire[celery]"),
    before=("logfire", "run", "--no-summary"), runs_python=True,
    environ={
        "LOGFIRE_SEND_TO_LOGFIRE": "false",
        "LOGFIRE_CONSOLE": "false",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:{http}/v1/traces",
    },
)  # fmt: skip
DDTRACE = Variant(
    "ddtrace-run", "ddtrace", ("celery[redis]", "ddtrace"), before=("ddtrace-run",),
    environ={
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:{http}",
        "DD_TRACE_API_VERSION": "v0.4",  # whose bytes can be counted
        "DD_SERVICE": "bench",
    },
    makes_spans=False,
)  # fmt: skip
NEWRELIC = Variant(
    "newrelic-admin", "newrelic", ("celery[redis]", "newrelic"),
    before=("newrelic-admin", "run-program"),
    # It speaks to its vendor by HTTPS alone; in this mode it does all but the sending.
    environ={
        "NEW_RELIC_DEVELOPER_MODE": "true",
        "NEW_RELIC_LICENSE_KEY": "0" * 40,
        "NEW_RELIC_APP_NAME": "bench",
    },
    makes_spans=False, counts=False,
)  # fmt: skip

ALL = (CELERY, PROCESS, INLINE, UPSTREAM, SPLUNK, LOGFIRE, DDTRACE, NEWRELIC)


def installed() -> list[Variant]:
    """Make all environments; return the variants that can be run here."""
    found = []
    for variant in ALL:
        print(f"installing {variant.name}", file=sys.stderr)
        if variant.install():
            found.append(variant)
        else:
            print(f"left out: {variant.name} cannot be installed here", file=sys.stderr)
    return found
