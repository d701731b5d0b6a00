"""Whether docs/troubleshooting.md knows a line that a program has said."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = DOCS / "troubleshooting.md"
DOCTOR_PAGE = DOCS / "doctor.md"
MARK = "otel-celery: "


@cache
def headings() -> tuple[str, ...]:
    """Return the text of each heading."""
    return tuple(re.findall("^### `(.+)`$", PAGE.read_text(), re.MULTILINE))


@cache
def numbers() -> tuple[str, ...]:
    """Return the numbers of the doctor's findings that have a heading."""
    return tuple(re.findall(r"^### (OC\d{3})$", DOCTOR_PAGE.read_text(), re.MULTILINE))


@cache
def pattern(text: str) -> re.Pattern[str]:
    """Return what a heading stands for."""
    return re.compile(".*".join(map(re.escape, text.split("…"))))


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def named_blocks(text: str) -> dict[str, str]:
    """Return the blocks of a page whose first line is a comment, by that comment."""
    found = {}
    for _, block in blocks(text):
        first, _, rest = block.partition("\n")
        if first.startswith("# "):
            found[first.removeprefix("# ")] = rest
    return found


def is_documented(text: str) -> bool:
    """Return whether a heading fits."""
    return any(pattern(heading).match(text) for heading in headings())


def undocumented(output: str) -> list[str]:
    """Return the lines of the launcher in a program's output that no heading fits."""
    texts = (line.partition(MARK)[2] for line in output.splitlines() if MARK in line)
    return sorted({text for text in texts if not is_documented(text)})
