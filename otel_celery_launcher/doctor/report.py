# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor's findings as text: each as soon as it is found, then what to do first.

On a terminal, the report has colour and the terminal's width, and it names the current
check if that takes longer than a second.
"""

from __future__ import annotations

import re
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from click import style

from otel_celery_launcher.doctor.findings import (
    FAIL,
    OK,
    WARN,
    exit_status,
    first_to_do,
)
from otel_celery_launcher.terminal import columns_of, cut, has_colour, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_celery_launcher.doctor.findings import Finding

COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}
PAGE = "docs/doctor.md"

# Level, then check, then what was seen: the text begins in this column.
LEVEL_COLUMNS, CHECK_COLUMNS = 6, 14
INDENT = " " * (LEVEL_COLUMNS + CHECK_COLUMNS)

# Start of a next step that is a command or a setting.
_COMMAND = re.compile(r"(?:next:|^) +(?:pip|otel-celery|python|mv|export|[A-Z_]+=)")

# Lines in a file or a pipe.
PLAIN_COLUMNS = 100

# Limit of a text in characters: third-party texts may be long.
TEXT_COLUMNS = 2000

# A check that takes longer is named while it runs.
PATIENCE_SECONDS = 1.0
TICK_SECONDS = 0.5


class Report:
    """Writes findings to one output.

    Args:
        out: The output stream.
        progress: The stream that shows the current check, if it is a terminal.
    """

    def __init__(self, out: TextIO | None, progress: TextIO | None = None) -> None:
        self._out = out
        self._progress = progress
        self._is_coloured = has_colour(out)
        self.columns = columns_of(out) or PLAIN_COLUMNS

    def add(self, finding: Finding) -> None:
        """Write a finding."""
        self._write(*self._lines(finding))

    def end(self, findings: Sequence[Finding]) -> None:
        """Write what to do first, and how many findings there are of each level."""
        first = first_to_do(findings)
        lines = [""]
        if first is not None:
            lines.append(f"First, for {first.check} ({first.id}):")
            text, *more = self._parts(f"  {_shown(first.next)}", "")
            lines += [self._styled(line, bold=True) for line in (text, *more)]
        failed, warnings = (
            sum(each.level == level for each in findings) for level in (FAIL, WARN)
        )
        counts = (
            f"{len(findings)} check{'' if len(findings) == 1 else 's'}: {failed} failed,"
            f" {warnings} warning{'' if warnings == 1 else 's'}."
        )
        if first is not None:
            counts += f" What each OC number means: {PAGE}"
        self._write(*lines, counts)

    @contextmanager
    def looking_at(self, what: str) -> Iterator[None]:
        """Name the current check while it runs, once it has taken a second."""
        progress = self._progress
        if progress is None or not has_colour(progress):
            yield
            return
        is_done = threading.Event()
        start = time.monotonic()

        def tell() -> None:
            is_told = False
            wait = PATIENCE_SECONDS
            while not is_done.wait(wait):
                wait, is_told = TICK_SECONDS, True
                seconds = time.monotonic() - start
                progress.write(f"\r\x1b[K…     {what}, {seconds:.0f} s")
                progress.flush()
            if is_told:
                progress.write("\r\x1b[K")
                progress.flush()

        teller = threading.Thread(target=tell, name="otel-doctor-progress", daemon=True)
        teller.start()
        try:
            yield
        finally:
            is_done.set()
            teller.join(TICK_SECONDS)

    def _lines(self, finding: Finding) -> list[str]:
        level = self._styled(
            finding.level, fg=COLOURS[finding.level], bold=finding.level == FAIL
        )
        source = f" ({finding.source})" if finding.source else ""
        head = (
            level
            + " " * (LEVEL_COLUMNS - len(finding.level))
            + finding.check.ljust(CHECK_COLUMNS)
        )
        first, *more = self._wrapped(_shown(f"{finding.seen}{source}"))
        lines = [head + first, *(INDENT + line for line in more)]
        if finding.next or finding.id:
            text = f"next: {_shown(finding.next)}" if finding.next else ""
            indent = " " * LEVEL_COLUMNS
            first, *more = self._parts(f"{finding.id}  {text}".rstrip(), indent)
            lines += [indent + first, *(f"{indent}{indent} {line}" for line in more)]
        return lines + [INDENT + line for line in table(finding.table)]

    def _parts(self, text: str, indent: str) -> list[str]:
        """Return a next step in lines; a command stays in one piece, for copying."""
        if _COMMAND.search(text):
            return [text]
        return self._wrapped(text, 2 * len(indent) + 1)

    def _wrapped(self, text: str, indent: int = len(INDENT)) -> list[str]:
        """Return a text wrapped to the columns that an indent leaves."""
        return textwrap.wrap(
            text,
            self.columns - indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]

    def _styled(self, text: str, fg: str | None = None, *, bold: bool = False) -> str:
        return style(text, fg=fg, bold=bold or None) if self._is_coloured else text

    def _write(self, *lines: str) -> None:
        if self._out is not None:  # closed at the start: only the status is wanted
            print("\n".join(lines), file=self._out, flush=True)


def print_report(findings: Sequence[Finding]) -> int:
    """Write findings that are all there; return the exit status."""
    report = Report(sys.stdout)
    for each in findings:
        report.add(each)
    report.end(findings)
    return exit_status(findings)


def _shown(text: str) -> str:
    """Return what applications, brokers and workers say as it may be shown."""
    return cut(" ".join(text.split()), TEXT_COLUMNS)
