"""Whether docs/troubleshooting.md knows a line that a program has said."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
MARK = "otel-celery: "


@cache
def headings() -> tuple[tuple[str, str], ...]:
    """Return check (empty for a line of the launcher) and text of each heading."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            *check, text = re.findall("`(.+?)`", line)
            found.append((check[0] if check else "", text))
    return tuple(found)


@cache
def pattern(text: str) -> re.Pattern[str]:
    """Return what a heading stands for."""
    return re.compile(".*".join(map(re.escape, text.split("…"))))


def is_documented(text: str, check: str = "") -> bool:
    """Return whether a heading fits."""
    return any(
        pattern(heading).match(text) for of, heading in headings() if of == check
    )


def undocumented(output: str) -> list[str]:
    """Return the lines of the launcher in a program's output that no heading fits."""
    texts = (line.partition(MARK)[2] for line in output.splitlines() if MARK in line)
    return sorted({text for text in texts if not is_documented(text)})
