"""The start line: one look, for a person or a program."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING

from tests.support.harness import SCRIPT

if TYPE_CHECKING:
    from tests.support.harness import Launcher

CHARACTERS = 200  # two lines of a terminal, with an endpoint of usual length


def test_it_is_short_and_has_what_is_there(launcher: Launcher) -> None:
    worker = launcher.worker()
    worker.stop()
    (line,) = worker.own_lines
    assert len(line) < CHARACTERS
    assert "not installed" not in line


def test_it_is_an_object_for_a_program(launcher: Launcher) -> None:
    worker = launcher.worker(
        OTEL_CELERY_LOG_FORMAT="json", OTEL_BSP_SCHEDULE_DELAY="often"
    )
    worker.stop()
    lines = [json.loads(line) for line in worker.own_lines]
    start, bad = lines
    assert (start["level"], bad["level"]) == ("INFO", "WARNING")
    assert start["service_name"] == "shop-worker"
    assert start["export"] == "process"
    assert "celery" in start["instrumented"]
    assert start["off"]["logging"]
    assert "OTEL_BSP_SCHEDULE_DELAY is 'often'" in bad["message"]


def on_a_terminal(launcher: Launcher, **environ: str) -> str:
    """Return what the launcher writes to a terminal."""
    ours, theirs = pty.openpty()
    subprocess.run(
        [SCRIPT, "-A", "shop", "call", "shop.noop"],
        env=launcher.environ | {"OTEL_BSP_SCHEDULE_DELAY": "often"} | environ,
        cwd=launcher.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=theirs, check=True, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    return os.read(ours, 10_000).decode()


def test_a_terminal_gets_colour_unless_it_wants_none(
    launcher: Launcher, broker: str
) -> None:
    assert on_a_terminal(launcher).startswith("\x1b[33motel-celery:\x1b[0m ")
    assert on_a_terminal(launcher, NO_COLOR="1").startswith("otel-celery: ")
    assert on_a_terminal(launcher, TERM="dumb").startswith("otel-celery: ")
