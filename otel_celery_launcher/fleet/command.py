# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery fleet``: watch a roll-out. Runs in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

from otel_celery_launcher.delivery.failures import explain
from otel_celery_launcher.errors import (
    EXIT_FAILED,
    EXIT_OK,
    LauncherError,
    describe_failure_briefly,
)
from otel_celery_launcher.fleet.look import DELIVERS, IDLE, Fleet, View, make_app
from otel_celery_launcher.settings.checks import printable, safe_repr
from otel_celery_launcher.terminal import cut, is_terminal, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from otel_celery_launcher.fleet.look import Worker

HEAD = (
    *("worker", "state", "release", "role", "service", "mode"),
    *("exported", "lost", "waiting"),
)
CLEAR = "\x1b[H\x1b[2J"
TEXT_COLUMNS = 300


@click.command(name="fleet")
@click.option(
    "--broker",
    "brokers",
    multiple=True,
    metavar="URL",
    help="A broker whose workers to show; may be repeated. That of -A if left out.",
)
@click.option("--json", "is_json", is_flag=True, help="One line of JSON a look.")
@click.option(
    "--watch",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Look again each time after this many seconds, until Ctrl-C.",
)
@click.option(
    "--timeout",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, 60),
    metavar="SECONDS",
    help="How long to wait for the next answer.",
)
@click.pass_obj
def fleet(
    app: str,
    brokers: tuple[str, ...],
    is_json: bool,
    watch: float | None,
    timeout: float,
) -> None:
    """Show all live workers of one or more brokers: launched by otel-celery or not.

    The oldest release first. The exit status is 0 if every worker was launched by
    otel-celery and delivers, or has had nothing to deliver; 1 otherwise, and if no
    worker answers.
    """
    apps = _apps(app, brokers)
    looker = Fleet(apps, timeout)
    view = looker.look()
    _show(view, is_json=is_json, has_brokers=len(apps) > 1, clears=False)
    try:
        while watch is not None:
            time.sleep(watch)
            view = looker.look()
            _show(view, is_json=is_json, has_brokers=len(apps) > 1, clears=True)
    except KeyboardInterrupt:
        pass
    # On Redis, what has asked would wait for its connections (``worker_answers.py``).
    sys.stdout.flush()
    sys.exit(EXIT_OK if view.is_well else EXIT_FAILED)


def _apps(app: str, brokers: Sequence[str]) -> list[Celery]:
    found = [make_app(broker) for broker in dict.fromkeys(brokers)]
    if app and not brokers:
        from celery.app.utils import find_app

        sys.path.insert(0, os.getcwd())  # as Celery does
        try:
            found.append(find_app(app))
        except Exception as exc:
            raise LauncherError(
                f"-A is {safe_repr(app)}: expected an application that imports"
                f" ({describe_failure_briefly(exc)})",
                f"try it: otel-celery -A {app} doctor",
            ) from exc
    if not found:
        raise LauncherError(
            "fleet has no broker: expected --broker, or an application with -A",
            "write: otel-celery fleet --broker redis://broker:6379/0",
        )
    return found


def _show(view: View, *, is_json: bool, has_brokers: bool, clears: bool) -> None:
    if is_json:
        print(json.dumps(view.as_dict()), flush=True)  # noqa: T201
        return
    lines = table(
        [_head(has_brokers), *(_row(each, has_brokers) for each in view.workers)]
    )
    lines += [
        f"{cut(each.node, TEXT_COLUMNS)}: {cut(explain(each.error).reason, TEXT_COLUMNS)}"
        for each in view.workers
        if each.error
    ]
    lines += [
        f"{broker} cannot be asked: {cut(problem, TEXT_COLUMNS)}"
        for broker, problem in view.unreached.items()
    ]
    delivering, idle = (
        sum(each.state == state for each in view.workers) for state in (DELIVERS, IDLE)
    )
    lines.append(
        f"{delivering} of {len(view.workers)} workers deliver"
        + (f", {idle} had nothing to deliver yet" if idle else "")
    )
    begin = CLEAR if clears and is_terminal(sys.stdout) else ""
    print(begin + "\n".join(lines), flush=True)  # noqa: T201


def _head(has_brokers: bool) -> tuple[str, ...]:
    return (*HEAD, "broker") if has_brokers else HEAD


def _row(worker: Worker, has_brokers: bool) -> tuple[str, ...]:
    cells = (
        *(worker.node, worker.state, worker.release or "-", worker.role or "-"),
        *(worker.service or "-", worker.mode or "-"),
        *(str(worker.exported), str(worker.lost), str(worker.waiting)),
    )
    shown = tuple(map(printable, cells))
    return (*shown, worker.broker) if has_brokers else shown


def main(words: Sequence[str], app: str) -> NoReturn:
    """Show the workers and leave with 0 or 1.

    Args:
        words: What follows ``fleet``.
        app: The value of ``-A``; empty where there is none.

    Raises:
        LauncherError: No broker is named.
    """
    fleet.main(list(words), prog_name="otel-celery fleet", obj=app)
    raise AssertionError  # click has left
