# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""All checks of the doctor, in the order of a start, each reported as soon as it is known."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from otel_celery_launcher.command_line import GENERIC_MODULE_NAMES
from otel_celery_launcher.doctor.broker import check_broker
from otel_celery_launcher.doctor.endpoint import check_endpoint, endpoint_variable
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding, exit_status
from otel_celery_launcher.doctor.further_signals import (
    check_further_signals,
    check_log_paths,
)
from otel_celery_launcher.doctor.installed import check_installed
from otel_celery_launcher.doctor.pool import check_pool
from otel_celery_launcher.doctor.report import Report
from otel_celery_launcher.doctor.spool import check_spool
from otel_celery_launcher.doctor.status_file import note_examined
from otel_celery_launcher.doctor.variables import (
    check_file_names,
    check_variables,
    sources_of,
)
from otel_celery_launcher.doctor.workers import check_workers
from otel_celery_launcher.settings.checks import safe_repr
from otel_celery_launcher.settings.corrections import is_disabled
from otel_celery_launcher.settings.dotenv_files import load_env_files
from otel_celery_launcher.settings.settings import Settings
from otel_celery_launcher.settings.standard_variables import PROPAGATORS

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Generator,
        Iterator,
        Mapping,
        MutableMapping,
        Sequence,
    )
    from contextlib import AbstractContextManager

    from otel_celery_launcher.command_line import CommandLine
    from otel_celery_launcher.settings.variable import Note

# How long a step may take.
WAIT_SECONDS = 5.0

# Names that say nothing when there are hundreds of services.
_GENERIC_NAMES = GENERIC_MODULE_NAMES | {"config", "service", "project"}


class Examination:
    """All checks, in the order of a start.

    Args:
        environ: The environment; completed and corrected in place, as by a start.
        command_line: Command line of the process whose settings are checked.
        look: Returns findings on the application, and the application or None.
        env_files: Values of ``--env-file``.
        seconds: The longest time each step may take.

    Attributes:
        looking_at: Returns a context manager to enter during a step that may take long.
        give_up: Ends the process with a finding on a step that cannot be interrupted.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        command_line: CommandLine,
        look: Callable[[], tuple[list[Finding], Any]],
        env_files: Sequence[str],
        seconds: float,
    ) -> None:
        self._environ = environ
        self._command_line = command_line
        self._look = look
        self._env_files = env_files
        self._seconds = seconds
        self.looking_at: Callable[[str], AbstractContextManager[None]] = _in_silence
        self.give_up: Callable[[Finding], object] = _go_on

    def findings(self) -> Iterator[Finding]:
        """Yield each finding as soon as it is there."""
        environ = self._environ
        # Its core writes past all logging; what it says is in the errors, too.
        environ.setdefault("GRPC_VERBOSITY", "NONE")
        yield from check_installed()
        sources = yield from self._check_files()
        yield from check_variables(environ, sources)
        if is_disabled(environ):
            seen = "OTEL_SDK_DISABLED is true: nothing is traced"
            next_ = "unset OTEL_SDK_DISABLED, if you want traces"
            yield Finding(
                level=WARN, id="OC207", check="disabled", seen=seen, next=next_
            )
            return
        settings = Settings.from_environ(environ, self._command_line)
        yield from _settings(settings, sources)
        yield _propagators(environ, sources)
        yield from check_spool(settings)
        with self.looking_at("the collector"):
            results = check_endpoint(
                settings, environ, _endpoint_source(environ, sources), self._seconds
            )
        yield from results
        if not any(each.level == FAIL for each in results):
            with self.looking_at("the collector: metrics and logs"):
                results = [*check_further_signals(settings, self._seconds)]
            yield from results
        with self.looking_at("the application: it is imported"):
            results, application = self._look()
        yield from results
        yield from check_log_paths(settings)
        if self._command_line.role == "worker":
            yield from check_pool(application, self._command_line.pool, settings)
        if application is not None:
            yield from self._check_beyond(application)

    def _check_files(self) -> Generator[Finding, None, dict[str, str]]:
        """Load the ``.env`` files; return where each variable came from."""
        environ, role = self._environ, self._command_line.role or ""
        before = dict(environ)
        for problem in load_env_files(
            environ, role=role, workdir=None, env_files=self._env_files
        ):
            yield Finding(
                level=FAIL,
                id="OC201",
                check="files",
                seen=problem,
                next=f"correct {problem.partition(': ')[0]}",
                is_setting=True,
            )
        yield from check_file_names(role)
        files = [Path(".env"), Path(f".env.{role}"), *map(Path, self._env_files)]
        return sources_of(before, environ, files)

    def _check_beyond(self, application: Any) -> Iterator[Finding]:
        """Look at broker and workers of an application that imports."""
        with self.looking_at("the broker: a message goes there and back"):
            results = check_broker(application, self._seconds)
        yield from results
        if not any(each.level == FAIL for each in results):
            with self.looking_at("the workers: who answers"):
                results = check_workers(application, self._seconds)
            yield from results


def _go_on(_: Finding) -> None:
    """Do nothing, so that the wait goes on (default of ``give_up``)."""


def _in_silence(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def _endpoint_source(environ: Mapping[str, str], sources: Mapping[str, str]) -> str:
    variable = endpoint_variable(environ)
    source = sources.get(variable)
    return f"{variable}, {source}" if source else "default"


def _propagators(environ: MutableMapping[str, str], sources: dict[str, str]) -> Finding:
    names = PROPAGATORS.read(environ)
    value = ",".join(names)
    source = sources.get(PROPAGATORS.name, "default")
    missing = [name for name in ("tracecontext", "baggage") if name not in names]
    if not missing:
        seen = f"propagators {value}"
        return Finding(level=OK, check="export", seen=seen, source=source)
    return Finding(
        level=WARN,
        id="OC210",
        check="export",
        seen=f"OTEL_PROPAGATORS is {value!r}: {' and '.join(missing)} ends here",
        source=source,
        next="OTEL_PROPAGATORS=tracecontext,baggage",
    )


def _settings(settings: Settings, sources: dict[str, str]) -> list[Finding]:
    name = settings.service_name
    source = sources.get("OTEL_SERVICE_NAME") or sources.get("OTEL_CELERY_SERVICE_NAME")
    notes = [each.text for each in settings.notes if each.about == "service name"]
    stem = name.removesuffix(f"-{settings.role}")
    if stem in _GENERIC_NAMES and not notes:
        notes.append(
            f"the service name {safe_repr(name)} says nothing: hundreds may be called so"
        )
    findings = [
        Finding(
            level=WARN,
            id="OC208",
            check="service name",
            seen=note,
            source=source or "default",
            next="export OTEL_SERVICE_NAME=my-shop OTEL_CELERY_SERVICE_NAME='{name}-{role}'",
        )
        for note in notes
    ] or [
        Finding(
            level=OK, check="service name", seen=safe_repr(name), source=source or ""
        )
    ]
    findings.append(_sampler(settings, sources))
    others = [
        each
        for each in settings.notes
        if each.about not in ("service name", "endpoint")
    ]
    return findings + [_export(each) for each in others]


def _export(note: Note) -> Finding:
    """Return a note on the export: without the exporter that is asked for it fails."""
    is_missing = note.about == "exporter"
    return Finding(
        level=FAIL if is_missing else WARN,
        id="OC211" if is_missing else "OC212",
        check="export",
        seen=note.text,
        next="pip install 'otel-celery-launcher[http]'" if is_missing else "",
        is_setting=is_missing,
    )


def _sampler(settings: Settings, sources: dict[str, str]) -> Finding:
    seen = f"spans leave {settings.mode.explained}, sampler {settings.sampler}"
    if settings.has_ratio:
        seen += f" {settings.sampler_argument or 1}"
    if not settings.keeps_nothing:
        return Finding(level=OK, check="export", seen=seen)
    return Finding(
        level=WARN,
        id="OC209",
        check="export",
        seen=f"{seen}: no trace that begins here is kept",
        source=sources.get("OTEL_TRACES_SAMPLER", "default"),
        next="OTEL_TRACES_SAMPLER=parentbased_always_on",
    )


def print_findings(examination: Examination) -> int:
    """Print each finding as soon as it is there; return the exit status."""
    report = Report(sys.stdout, sys.stderr)
    examination.looking_at = report.looking_at
    findings: list[Finding] = []

    def end() -> int:
        report.end(findings)
        status = exit_status(findings)
        note_examined(os.environ, status)
        return status

    def give_up(finding: Finding) -> NoReturn:
        findings.append(finding)
        report.add(finding)
        os._exit(end())

    examination.give_up = give_up
    with redirect_stdout(sys.stderr):
        for each in examination.findings():
            findings.append(each)
            report.add(each)
    return end()
