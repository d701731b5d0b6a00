# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for Celery's own tests: writes what becomes of each.

The driver copies it beside Celery's tests, and it runs in their environment: it imports
nothing of this repository. It writes a line of JSON for each event, at once: a run that
crashes or hangs has then said how far it came.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import warnings

# Lines of a failure that are kept: the assertion and a little of its explanation.
MOST_LINES = 6


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("record_outcomes")
    group.addoption("--record", type=Path, help="file that the events are written to")
    group.addoption("--only", type=Path, help="file with the names of tests to run")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("record")
    if path is not None:
        config.pluginmanager.register(Recorder(path.open("w")), "outcome-recorder")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what ``--only`` does not name."""
    path = config.getoption("only")
    if path is None:
        return
    names = set(path.read_text().splitlines())
    config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in names])
    items[:] = [item for item in items if item.nodeid in names]


class Recorder:
    """Writes an event for each start, outcome and warning, and one at the end."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def _write(self, event: str, **fields: object) -> None:
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
        self._file.flush()  # tests fork: a child must not find lines to write again

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = outcome_of(report)
        is_subtest = hasattr(report, "context")
        if outcome and not (is_subtest and outcome == "passed"):
            self._write(
                "outcome", test=report.nodeid, outcome=outcome, text=first_lines(report)
            )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(
                "outcome", test=report.nodeid, outcome="error", text=first_lines(report)
            )

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, nodeid: str
    ) -> None:
        self._write(
            "warning",
            test=nodeid,
            category=warning_message.category.__name__,
            text=str(warning_message.message),
        )

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write("end", status=int(exitstatus), is_traced=is_traced())


def outcome_of(report: pytest.TestReport) -> str:
    """Return pytest's word for a report; empty where it says nothing yet."""
    if report.failed:
        return "failed" if report.when == "call" else "error"
    is_expected_failure = hasattr(report, "wasxfail")
    if report.skipped:
        return "xfailed" if is_expected_failure else "skipped"
    if report.passed and report.when == "call":
        return "xpassed" if is_expected_failure else "passed"
    return ""  # set-up, tear-down, or a failure that is tried again


def first_lines(report: pytest.TestReport | pytest.CollectReport) -> list[str]:
    """Return the lines of a failure that say what was wrong, and its place."""
    if not report.failed:
        return []
    lines = report.longreprtext.splitlines()
    chosen = [line for line in lines if line.startswith("E ")] or lines[-MOST_LINES:]
    return [*chosen[:MOST_LINES], *lines[-1:]]


def is_traced() -> bool:
    """Return whether the launcher is set up here, and Celery is instrumented.

    Some tests of Celery's disconnect all receivers of a signal, so these prove nothing.
    """
    launch: Any = sys.modules.get("otel_celery_launcher.launch.celery_command")
    instrumentor: Any = sys.modules.get("otel_celery_launcher.tasks.instrumentor")
    return (
        launch is not None
        and instrumentor is not None
        and launch.is_set_up()
        and instrumentor._present is not None
    )
