"""What the system refuses leaves plain Celery: limits of a process (``ulimit``)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import CELERY, SCRIPT, Producer, run_some

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher


def limited(launcher: Launcher, limit: str, program: Path) -> Path:
    """Return a program under a limit; its own log is written by somebody without."""
    script = launcher.folder / f"limited-{program.name}"
    script.write_text(f'#!/bin/sh\nulimit {limit}\nexec {program} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("limit", ["-n 5", "-n 6", "-n 7", "-n 10", "-n 20", "-f 1"])
def test_a_command_that_celery_can_run_runs(
    launcher: Launcher, collector: Receiver, limit: str
) -> None:
    """From two descriptors on: grpc ends a process by SIGABRT that has a few more."""
    words = ["-A", "shop", "call", "shop.noop"]
    outputs = []
    for program in (CELERY, SCRIPT):
        done = launcher.run(
            *words, program=limited(launcher, limit, program), SHOP_BROKER="memory://"
        )
        if program is CELERY and done.returncode:
            assert sys.version_info >= (3, 14)  # which needs more for its imports
            assert limit in {"-n 5", "-n 6"}
            return
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.strip()) == 36
        outputs.append(done.stderr)
    plain, ours = outputs
    assert plain == ""
    (line,) = ours.splitlines()
    assert line.startswith(
        "otel-celery: the system refuses what tracing needs: Celery runs untraced."
        " OSError: [Errno "
    )
    assert not collector.spans


@pytest.mark.parametrize(("pool", "blocks"), [("prefork", 16), ("solo", 0)])
def test_a_worker_without_room_for_files_runs_tasks(
    launcher: Launcher, broker: str, pool: str, blocks: int
) -> None:
    """RLIMIT_FSIZE holds for files in memory, too; billiard's need a page."""
    script = launcher.folder / "limited"
    script.write_text(
        f'#!/bin/sh\n(ulimit -f {blocks}; exec {SCRIPT} "$@" 2>&1) | cat\n'
    )
    script.chmod(0o755)
    worker = launcher.worker("-P", pool, program=script)
    run_some(Producer(broker), 5)
    launcher.run("-A", "shop", "control", "shutdown")
    assert worker.wait() == 0
    (line,) = worker.own_lines
    assert "Celery runs untraced. OSError: [Errno 27] File too large" in line


@pytest.mark.parametrize("limit", ["-n 6", "-n 20", "-f 1"])
def test_a_program_under_exec_runs(launcher: Launcher, limit: str) -> None:
    done = launcher.run(
        "exec", "--", sys.executable, "-c", "print('runs')",
        program=limited(launcher, limit, SCRIPT),
        OTEL_CELERY_EXPORT="process",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert "the system refuses what tracing needs: the program runs untraced." in line
