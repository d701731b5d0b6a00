# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Every ``OTEL_*`` variable that is set: known, misspelt, unread, unhandled, or bad."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.command_line import DEFAULT_ROLE, ROLES
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.settings.corrections import correct_environment
from otel_celery_launcher.settings.unknown_variables import (
    unhandled_variables,
    unknown_variables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from otel_celery_launcher.settings.variable import BadValue

# Roles whose settings can be checked without a ``.env.<role>`` file.
KNOWN_ROLES = (*ROLES, DEFAULT_ROLE, "web")

# How near the role of a file must be to a known one to be a misspelling of it.
SPELT_ALIKE = 0.8

# In the specification, and of no effect in Python.
UNREAD = {
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "the Zipkin exporter ended",
    "OTEL_EXPORTER_JAEGER_ENDPOINT": "the Jaeger exporter ended",
    "OTEL_EXPORTER_JAEGER_AGENT_HOST": "the Jaeger exporter ended",
    "OTEL_EXPORTER_JAEGER_AGENT_PORT": "the Jaeger exporter ended",
    "OTEL_BSP_EXPORT_TIMEOUT": "the SDK reads and does not use it",
}


def check_variables(
    environ: MutableMapping[str, str], sources: Mapping[str, str]
) -> list[Finding]:
    """Check all variables that are set; corrects them as a worker's start does.

    Args:
        environ: The environment, including values of ``.env`` files.
        sources: Where each name came from.
    """
    names = sorted(name for name in environ if name.startswith("OTEL_"))
    unhandled = set(unhandled_variables(environ))
    unknown = unknown_variables(environ)
    findings = [_bad(each, sources) for each in correct_environment(environ)]
    for name in names:
        source = sources.get(name, "")
        if name in UNREAD:
            findings.append(_warn("OC204", name, f"ignored: {UNREAD[name]}", source))
        elif name in unhandled:
            what = "not handled: it names a provider, a configurator or a file"
            findings.append(_warn("OC205", name, what, source))
        elif name in unknown:
            findings.append(_unknown(name, unknown[name], source))
    if not findings:
        names_set = ", ".join(names) or "none is set"
        findings.append(Finding(level=OK, check="variables", seen=names_set))
    return findings


def check_file_names(role: str, folder: Path = Path()) -> list[Finding]:
    """Look for ``.env.<role>`` files whose role is misspelt: nothing reads them.

    Args:
        role: The role that is examined; its own file is read.
        folder: The folder of the files.
    """
    names = {path.name for path in folder.glob(".env.*") if path.is_file()}
    missing = [each for each in KNOWN_ROLES if f".env.{each}" not in names]
    findings = []
    for name in sorted(names):
        given = name.removeprefix(".env.")
        is_read = given == role or given in KNOWN_ROLES or not given.isalpha()
        near = [] if is_read else get_close_matches(given, missing, 1, SPELT_ALIKE)
        findings += [
            Finding(
                level=WARN,
                id="OC213",
                check="files",
                seen=f"{name} is read for no role, unless an `exec --role` names it",
                next=f"mv {name} .env.{each}",
            )
            for each in near
        ]
    return findings


def sources_of(
    before: Mapping[str, str], after: Mapping[str, str], files: Sequence[Path]
) -> dict[str, str]:
    """Return where each ``OTEL_*`` name came from: the environment, or a file."""
    sources = {}
    for name in after:
        if name.startswith("OTEL_"):
            sources[name] = "environment" if name in before else _file_of(name, files)
    return sources


def _file_of(name: str, files: Sequence[Path]) -> str:
    """Return the last file that sets a name: of two the later wins."""
    for path in reversed(files):
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        if any(line.partition("=")[0].split()[-1:] == [name] for line in lines):
            return str(path)
    return "a file"


def _bad(bad: BadValue, sources: Mapping[str, str]) -> Finding:
    return Finding(
        level=FAIL,
        id="OC202",
        check="variables",
        seen=str(bad),
        source=sources.get(bad.name, ""),
        next=f"correct {bad.name}, or unset it",
        is_setting=True,
    )


def _warn(number: str, name: str, what: str, source: str) -> Finding:
    return Finding(
        level=WARN,
        id=number,
        check="variables",
        seen=f"{name} is {what}",
        source=source,
        next=f"unset {name}",
    )


def _unknown(name: str, near: str, source: str) -> Finding:
    return Finding(
        level=FAIL if near else WARN,
        id="OC203" if near else "OC206",
        check="variables",
        seen=f"{name} is not a variable that anything here reads",
        source=source,
        next=f"write {near}" if near else f"unset {name}",
        is_setting=bool(near),
    )
