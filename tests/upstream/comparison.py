# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of Celery's tests under the launcher does worse than a plain one."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# From the best to the worst: a test is as good as the worst of its phases and subtests.
OUTCOMES = ("passed", "xpassed", "xfailed", "skipped", "failed", "error", "missing")
BAD = frozenset({"failed", "error", "missing"})

# What differs from run to run in the words of a warning: addresses, process ids, ports.
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass
class Outcome:
    """What became of one test."""

    word: str
    lines: list[str] = field(default_factory=list)  # the first ones of its failure


@dataclass
class Run:
    """What became of one run of tests."""

    tests: dict[str, Outcome] = field(default_factory=dict)
    # Category and words of each warning, and the tests that made it.
    warnings: dict[str, set[str]] = field(default_factory=dict)
    status: int | None = None  # pytest's own; None where it did not come to its end
    is_traced: bool = False
    unfinished: str = ""  # the test that was running at the last event

    def word(self, test: str) -> str:
        return self.tests[test].word if test in self.tests else "missing"

    def counts(self) -> Counter[str]:
        return Counter(outcome.word for outcome in self.tests.values())


@dataclass
class Difference:
    """A test that does worse under the launcher."""

    test: str
    plain: str
    traced: str
    lines: list[str]


def read_run(lines: Iterable[str]) -> Run:
    """Read what ``record_outcomes.py`` wrote; the last line may be cut off."""
    run = Run()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            break
        _add(run, event)
    return run


def _add(run: Run, event: dict[str, str]) -> None:
    match event:
        case {"event": "start", "test": test}:
            run.unfinished = test
        case {"event": "outcome", "test": test, "outcome": word, "text": text}:
            known = run.tests.get(test)
            if known is None or OUTCOMES.index(word) > OUTCOMES.index(known.word):
                run.tests[test] = Outcome(word, list(text))
        case {"event": "warning", "test": test, "category": category, "text": text}:
            first_line = text.strip().partition("\n")[0]
            words = f"{category}: {_NUMBER.sub('…', first_line)}"
            run.warnings.setdefault(words, set()).add(test)
        case {"event": "end", "status": status, "is_traced": is_traced}:
            run.status, run.is_traced, run.unfinished = (
                int(status),
                bool(is_traced),
                "",
            )


def is_worse(plain: str, traced: str) -> bool:
    """Return whether a test fails, or no longer runs, where it did plain."""
    if plain in BAD:
        return False
    return traced in BAD or (plain == "passed" and traced != "passed")


def differences(plain: Run, traced: Run) -> list[Difference]:
    """Return the tests that do worse under the launcher, in the order of the plain run."""
    found = []
    for test, outcome in plain.tests.items():
        other = traced.tests.get(test, Outcome("missing"))
        if is_worse(outcome.word, other.word):
            found.append(Difference(test, outcome.word, other.word, other.lines))
    return found


def new_warnings(plain: Run, traced: Run) -> dict[str, set[str]]:
    """Return the warnings that no plain test makes, and the tests that make them.

    By their words, not by test: garbage collection moves a warning from one test to
    another.
    """
    return {
        words: tests
        for words, tests in traced.warnings.items()
        if words not in plain.warnings
    }


def verdict_counts(
    plain: Run, traced: Run, worse: Collection[str]
) -> Mapping[str, int]:
    """Return counts for a closing line: how the tests that pass plain do traced."""
    passed = sum(
        outcome.word == "passed" and traced.word(test) == "passed"
        for test, outcome in plain.tests.items()
    )
    return {
        "failed": len(worse),
        "passed": passed,
        "skipped": len(plain.tests) - passed - len(worse),
    }
