"""docs/troubleshooting.md and what is said hold together, in both directions."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import otel_celery_launcher
from otel_celery_launcher.signals import SIGNALS
from tests.support.documented import headings, numbers, undocumented

PACKAGE = Path(otel_celery_launcher.__file__).parent


@cache
def texts() -> str:
    """Return every text of the package's code, one a line."""
    return "\n".join(
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("heading", headings())
def test_each_heading_is_something_that_is_said(heading: str) -> None:
    said = texts()
    for each in SIGNALS:  # the name of a signal's items is data: ``signals.py``
        heading = re.sub(rf"\b{each.items}(?= (lost|reach|do not|\())", "…", heading)
    parts = [part.strip(" ;:") for part in heading.split("…")]
    assert [part for part in parts if part not in said] == []


def test_each_number_of_a_finding_is_on_its_page_once() -> None:
    used = set(re.findall(r"^OC\d{3}$", texts(), re.MULTILINE))
    assert sorted(used) == sorted(numbers())


def test_a_line_that_is_not_there_is_found() -> None:
    """The other direction: tests/conftest.py asks this of all that any program says."""
    known = "otel-celery: spans reach http://x again; 5 were lost."
    assert undocumented(f"noise\n{known}\notel-celery: something new") == [
        "something new"
    ]
