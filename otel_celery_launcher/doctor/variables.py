# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Every ``OTEL_*`` variable that is set: known, misspelt, unread, unhandled, or bad."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.settings import correct_environment
from otel_celery_launcher.unhandled import unhandled_variables
from otel_celery_launcher.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

# Read by the SDK, its exporters and the instrumentations (1.30 to 1.45), beside the
# rows of the table; a name that begins so is somebody's.
READ_BY_OTHERS = (
    "OTEL_RESOURCE_ATTRIBUTES_",  # the OpenTelemetry Operator's
    "OTEL_INSTRUMENTATION_",
    "OTEL_PYTHON_",
    "OTEL_SEMCONV_",
)

# How near a name must be to a known one to be a misspelling: OTEL_SERVICE_NAMESPACE is none.
SPELT_ALIKE = 0.9

# In the specification, and read by nobody in Python.
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
    """Look at all that is set; corrects the environment as a worker's start does.

    Args:
        environ: With what ``.env`` files gave.
        sources: Where each name came from.
    """
    known = {row.name for row in VARIABLES}
    names = sorted(name for name in environ if name.startswith("OTEL_"))
    unhandled = set(unhandled_variables(environ))
    found = [_bad(line, sources) for line in correct_environment(environ)]
    for name in names:
        source = sources.get(name, "")
        if name in UNREAD:
            found.append(_warn(name, f"read by nobody: {UNREAD[name]}", source))
        elif name in unhandled:
            found.append(_warn(name, "not handled: metrics, logs, files", source))
        elif name not in known and not name.startswith(READ_BY_OTHERS):
            found.append(_unknown(name, known, source))
    if not found:
        shown = ", ".join(names) or "none is set"
        found.append(Finding(level=OK, check="variables", seen=shown))
    return found


def sources_of(
    before: Mapping[str, str], after: Mapping[str, str], files: Sequence[Path]
) -> dict[str, str]:
    """Return where each ``OTEL_*`` name came from: the environment, or a file."""
    found = {}
    for name in after:
        if name.startswith("OTEL_"):
            found[name] = "environment" if name in before else _file_of(name, files)
    return found


def _file_of(name: str, files: Sequence[Path]) -> str:
    """Return the last file that sets a name: of two the later wins."""
    for path in reversed(files):
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        if any(line.partition("=")[0].split()[-1:] == [name] for line in lines):
            return str(path)
    return "a file"


def _bad(line: str, sources: Mapping[str, str]) -> Finding:
    name = line.partition(" ")[0]
    return Finding(
        level=FAIL,
        check="variables",
        seen=line,
        source=sources.get(name, ""),
        next=f"correct {name}, or unset it",
        is_setting=True,
    )


def _warn(name: str, what: str, source: str) -> Finding:
    return Finding(
        level=WARN,
        check="variables",
        seen=f"{name} is {what}",
        source=source,
        next=f"unset {name}",
    )


def _unknown(name: str, known: set[str], source: str) -> Finding:
    near = get_close_matches(name, known, 1, SPELT_ALIKE)
    return Finding(
        level=FAIL if near else WARN,
        check="variables",
        seen=f"{name} is known to nobody here",
        source=source,
        next=f"write {near[0]}" if near else f"unset {name}",
        is_setting=bool(near),
    )
