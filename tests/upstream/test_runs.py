# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison of Celery's own tests, plain and under the launcher."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.upstream.comparison import (
    Outcome,
    Run,
    differences,
    is_worse,
    new_warnings,
    read_run,
    verdict_counts,
)
from tests.upstream.runs import Side

if TYPE_CHECKING:
    from tests.upstream.runs import Finished


def run_of(**words: str) -> Run:
    return Run({test: Outcome(word) for test, word in words.items()})


@pytest.mark.parametrize("traced", ["failed", "error", "missing", "skipped", "xfailed"])
def test_a_test_that_passes_plain_and_not_traced_is_worse(traced: str) -> None:
    assert is_worse("passed", traced)


@pytest.mark.parametrize("plain", ["skipped", "xfailed"])
def test_a_test_that_does_not_pass_plain_is_worse_where_it_fails(plain: str) -> None:
    assert is_worse(plain, "failed")
    assert not is_worse(plain, "passed")


@pytest.mark.parametrize("plain", ["failed", "error", "missing"])
def test_a_test_that_fails_plain_says_nothing_about_us(plain: str) -> None:
    assert not is_worse(plain, "failed")
    assert not is_worse(plain, "missing")


def test_differences_name_what_is_worse_and_what_is_missing() -> None:
    plain = run_of(a="passed", b="passed", c="failed", d="passed")
    traced = run_of(a="passed", b="failed", c="error", only_here="failed")
    found = [
        (each.test, each.plain, each.traced) for each in differences(plain, traced)
    ]
    assert found == [("b", "passed", "failed"), ("d", "passed", "missing")]
    counts = verdict_counts(plain, traced, {"b", "d"})
    assert counts == {"failed": 2, "passed": 1, "skipped": 1}


def test_a_warning_is_new_by_its_words_wherever_plain_makes_it() -> None:
    def run(*events: tuple[str, str]) -> Run:
        return read_run(
            json.dumps(
                {"event": "warning", "test": t, "category": "UserWarning", "text": text}
            )
            for t, text in events
        )

    plain = run(("a", "socket 17 at 0x7f01 is open"))
    traced = run(("b", "socket 4 at 0x7fab is open"), ("c", "fork in threads"))
    assert new_warnings(plain, traced) == {"UserWarning: fork in threads": {"c"}}


TESTS = """
import os, unittest, warnings
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "one is not two"
@pytest.fixture
def broken():
    yield
    raise RuntimeError("left behind")
def test_passes_and_breaks_at_its_end(broken): pass
@pytest.mark.xfail
def test_expected(): raise ValueError
def test_skips(): pytest.skip("not here")
def test_warns(): warnings.warn("old")
def test_subtests(subtests):
    with subtests.test("one"): assert False
def test_crashes():
    if "CRASH" in os.environ: os._exit(3)
"""


@pytest.fixture
def side(tmp_path: Path) -> Side:
    """A plain run of the tests above, in the environment of this test."""
    source = tmp_path / "source"
    (source / "t").mkdir(parents=True)
    (source / "t" / "test_it.py").write_text(TESTS)
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    return Side(
        "plain", tmp_path / "venv", source, tmp_path / "runs", {}, is_traced=False
    )


def finished(side: Side, *only: str) -> Finished:
    return side.start(["t"], only).wait()


def test_a_run_records_what_became_of_each_test(side: Side) -> None:
    found = finished(side)
    words = {
        name.rpartition("::test_")[2]: outcome.word
        for name, outcome in found.run.tests.items()
    }
    assert words == {
        "passes": "passed",
        "fails": "failed",
        "passes_and_breaks_at_its_end": "error",
        "expected": "xfailed",
        "skips": "skipped",
        "warns": "passed",
        "subtests": "failed",
        "crashes": "passed",
    }
    assert "one is not two" in found.run.tests["t/test_it.py::test_fails"].lines[0]
    assert found.run.warnings == {"UserWarning: old": {"t/test_it.py::test_warns"}}
    assert (found.run.status, found.problem()) == (1, "")
    assert " passed" in found.closing_line


def test_a_run_that_crashes_is_a_problem_and_names_the_test(side: Side) -> None:
    side.environ["CRASH"] = "yes"
    found = finished(side)
    assert "exit status 3 before" in found.problem()
    assert "t/test_it.py::test_crashes" in found.problem()


def test_named_tests_run_alone(side: Side) -> None:
    found = finished(side, "t/test_it.py::test_passes")
    assert list(found.run.tests) == ["t/test_it.py::test_passes"]
    assert found.run.status == 0


def test_a_run_without_the_launcher_proves_nothing(side: Side) -> None:
    program = side.venv / "bin" / "otel-celery"  # one that does nothing
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    program.chmod(0o755)
    side.is_traced = True
    assert "was not traced" in finished(side).problem()
