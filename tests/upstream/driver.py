# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Celery's own tests, plain and under the launcher: the difference is the result.

make test-celery      # or: python -m tests.upstream.driver FOLDER [TEST]... [--broker NAME]

FOLDER is the environment that ``make_environment`` made, TEST a path below Celery's
source, ``t/unit`` without one. NAME is what Celery's integration tests run on: redis or
rabbitmq, servers of our own. The exit status is 1 if a test does worse under the
launcher, if a warning is new there, or if one of the runs did not come to its end.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.servers import run_rabbitmq, run_redis
from tests.upstream.comparison import (
    OUTCOMES,
    differences,
    is_worse,
    new_warnings,
    verdict_counts,
)
from tests.upstream.runs import Side

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.upstream.comparison import Difference
    from tests.upstream.runs import Finished

# Open files that a process may have. Some of Celery's tests walk over all numbers, which
# takes a minute where the limit is 20,000.
OPEN_FILES = 1024

# More differences than this are no accident: nothing is run again.
MOST_REPEATED = 100

MOST_SHOWN = 30


def run_both(
    plain: Side, traced: Side, where: Sequence[str], only: Collection[str] = ()
) -> tuple[Finished, Finished]:
    """Run both sides beside each other, each on a core."""
    with ExitStack() as stack:
        started = []
        for side in (plain, traced):
            started.append(side.start(where, only))
            stack.callback(started[-1].kill)
        one, other = (each.wait() for each in started)
    return one, other


def repeats(
    plain: Side, traced: Side, tests: Collection[str]
) -> tuple[dict[str, list[str]], set[str]]:
    """Run tests again: first they alone, then their whole files.

    Whole files, too: a test may fail because of what the one before it left.

    Returns:
        What each came to, in words; and those that did worse once more.
    """
    plain = replace(plain, name=f"{plain.name}-again")
    traced = replace(traced, name=f"{traced.name}-again")
    history: dict[str, list[str]] = {test: [] for test in tests}
    again: set[str] = set()
    files = sorted({test.partition("::")[0] for test in tests})
    for how, only in (("alone", tests), ("with its whole file", ())):
        one, other = run_both(plain, traced, files, only)
        for test in tests:
            words = one.run.word(test), other.run.word(test)
            history[test].append(f"{how}: plain {words[0]}, otel-celery {words[1]}")
            if is_worse(*words):
                again.add(test)
    return history, again


def table(plain: Finished, traced: Finished) -> str:
    """Return the counts of both sides."""
    counts = plain.run.counts(), traced.run.counts()
    rows = [("", plain.side.name, traced.side.name)]
    rows += [
        (word, str(counts[0][word]), str(counts[1][word]))
        for word in OUTCOMES
        if counts[0][word] or counts[1][word]
    ]
    rows.append(("seconds", f"{plain.seconds:.0f}", f"{traced.seconds:.0f}"))
    return "\n".join(f"{name:10}{one:>12}{other:>14}" for name, one, other in rows)


def describe(found: Difference, history: Sequence[str]) -> str:
    """Return a difference for people: what it was, and what it was again."""
    lines = [f"  plain {found.plain}, otel-celery {found.traced}", *history]
    lines += [f"  | {line}" for line in found.lines]
    return "\n    ".join([f"  {found.test}", *lines])


def show(title: str, items: Sequence[str]) -> None:
    """Print a list under its title, not longer than a screen or two."""
    if not items:
        return
    print(f"\n{title}")
    print("\n".join(items[:MOST_SHOWN]))
    if len(items) > MOST_SHOWN:
        print(f"  and {len(items) - MOST_SHOWN} more")


def compare(plain: Side, traced: Side, where: Sequence[str]) -> int:
    """Run both, print what differs; return the exit status."""
    began = time.monotonic()
    one, other = run_both(plain, traced, where)
    found = differences(one.run, other.run)
    history: dict[str, list[str]] = {}
    worse = {each.test for each in found}
    if found and len(found) <= MOST_REPEATED:
        history, worse = repeats(plain, traced, worse)
    print(table(one, other))
    for each in (one, other):
        print(f"{each.side.name}: {each.closing_line}")
    show_differences(found, history, worse)
    warnings = new_warnings(one.run, other.run)
    show(
        "Warnings that only otel-celery makes:",
        [f"  {words}\n    {sorted(tests)[0]}" for words, tests in warnings.items()],
    )
    problems = [text for text in (one.problem(), other.problem()) if text]
    show("Problems:", [f"  {text}" for text in problems])
    counts = verdict_counts(one.run, other.run, worse)
    counts = {**counts, "failed": counts["failed"] + len(warnings) + len(problems)}
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    print(f"\n===== {words} in {time.monotonic() - began:.2f}s =====")
    return 1 if counts["failed"] or not counts["passed"] else 0


def show_differences(
    found: Sequence[Difference], history: dict[str, list[str]], worse: Collection[str]
) -> None:
    """Print the tests that do worse, and apart from them those that did so once."""
    show(
        "Worse under otel-celery:",
        [
            describe(each, history.get(each.test, ()))
            for each in found
            if each.test in worse
        ],
    )
    show(
        "Worse under otel-celery once, and not when they ran again, so not counted:",
        [
            describe(each, history[each.test])
            for each in found
            if each.test not in worse
        ],
    )


def versions_in(venv: Path) -> tuple[str, str]:
    """Return the versions of Celery and of Python in an environment."""
    script = (
        "import importlib.metadata as m, platform;"
        " print(m.version('celery'), platform.python_version())"
    )
    command = [str(venv / "bin" / "python"), "-c", script]
    celery, python = subprocess.check_output(command, text=True).split()
    return celery, python


def brokers(stack: ExitStack, broker: str) -> dict[str, str]:
    """Start servers for one side; return what tells Celery's integration tests.

    Each side has its own: they flush, purge and count what is in them.
    """
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="celery-tests-")))
    redis = stack.enter_context(run_redis(folder))
    url = f"{redis}/0"
    if broker == "rabbitmq":
        url = stack.enter_context(run_rabbitmq(folder)) + "//"
    host, _, port = redis.partition("://")[2].partition(":")
    return {
        "TEST_BROKER": url,
        "TEST_BACKEND": f"{redis}/0",
        "REDIS_HOST": host,
        "REDIS_PORT": port,
    }


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.upstream.driver")
    parser.add_argument("folder", type=Path, help="what make_environment made")
    parser.add_argument("tests", nargs="*", default=["t/unit"])
    parser.add_argument("--broker", choices=("redis", "rabbitmq"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = read_arguments(arguments)
    venv = options.folder.absolute()
    celery, python = versions_in(venv)
    on = f" on {options.broker}" if options.broker else ""
    tests = " ".join(options.tests)
    print(f"Celery {celery}, {tests}{on}, Python {python}", flush=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    source = venv / f"celery-{celery}"
    with Receiver() as receiver, ExitStack() as stack:
        one, other = (
            brokers(stack, options.broker) if options.broker else {} for _ in range(2)
        )
        other |= {
            "OTEL_SERVICE_NAME": "celery-tests",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        }
        runs = venv / "runs" / (options.broker or "unit")
        plain = Side("plain", venv, source, runs, one, is_traced=False)
        traced = Side("otel-celery", venv, source, runs, other, is_traced=True)
        return compare(plain, traced, options.tests)


if __name__ == "__main__":
    # The runs end with this process: SIGTERM raises, as Ctrl+C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
