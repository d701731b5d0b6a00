# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor found: a level, what was seen, where it came from, what to type next."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, WARN, FAIL = "OK", "WARN", "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        level: OK, WARN or FAIL.
        check: What was looked at, in a word or two.
        seen: What is there; secrets never.
        source: Variable, file, or default it came from; empty where that says nothing.
        next: What to type next; empty where nothing is to be done.
        is_setting: A value that is wrong, as opposed to a world that does not answer.
    """

    level: str
    check: str
    seen: str
    source: str = ""
    next: str = ""
    is_setting: bool = False


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 0, 1 (something fails) or 78 (a setting is wrong)."""
    failed = [each for each in findings if each.level == FAIL]
    if any(each.is_setting for each in failed):
        return EXIT_CONFIG
    return EXIT_FAILED if failed else EXIT_OK


def as_text(findings: Sequence[Finding]) -> str:
    """Return the findings for a person."""
    lines = []
    for each in findings:
        source = f" ({each.source})" if each.source else ""
        lines.append(f"{each.level:4}  {each.check}: {each.seen}{source}")
        if each.next:
            lines.append(f"      next: {each.next}")
    counts = [sum(each.level == level for each in findings) for level in (FAIL, WARN)]
    lines.append(f"{len(findings)} checks, {counts[0]} failed, {counts[1]} warnings")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings for a program."""
    return json.dumps(
        {
            "status": exit_status(findings),
            "findings": [asdict(each) for each in findings],
        },
        indent=2,
    )
