# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor found: a level, what was seen, where it came from, what to type next."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from collections.abc import Sequence

_USER_INFO = re.compile(r"(\w://)\S*@")
_QUOTED_PORT = re.compile(r"(Port could not be cast to integer value as ).*")

OK, WARN, FAIL = "OK", "WARN", "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        level: OK, WARN or FAIL.
        id: Permanent id of its kind, a heading of docs/doctor.md. Empty for OK.
        check: What was looked at, in a word or two.
        seen: What was observed, without secrets.
        source: Variable, file, or default it came from; empty if that is irrelevant.
        next: What to type next; empty where nothing is to be done.
        is_setting: Whether a setting is wrong, not a service that does not answer.
        table: Rows of equal length, the head first; empty for none.
    """

    level: str
    check: str
    seen: str
    id: str = ""
    source: str = ""
    next: str = ""
    is_setting: bool = False
    table: tuple[tuple[str, ...], ...] = ()


def without_secrets(text: str) -> str:
    """Return a third-party text without the user info in its URLs.

    ``urllib.parse`` shows part of a password with a slash ("Port could not be cast").
    """
    return _QUOTED_PORT.sub(r"\1…", _USER_INFO.sub(r"\1…@", text))


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 0, 1 (something fails) or 78 (a setting is wrong)."""
    failed = [each for each in findings if each.level == FAIL]
    if any(each.is_setting for each in failed):
        return EXIT_CONFIG
    return EXIT_FAILED if failed else EXIT_OK


def first_to_do(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding to fix first: the first failure may cause the later ones."""
    for level in (FAIL, WARN):
        for each in findings:
            if each.level == level and each.next:
                return each
    return None


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings for a program."""
    return json.dumps(
        {
            "status": exit_status(findings),
            "findings": [asdict(each) for each in findings],
        },
        indent=2,
    )
