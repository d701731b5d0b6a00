"""``otel-celery exec`` and ``setup()``: programs that are not Celery's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.conftest import APPS
from tests.harness import (
    CELERY,
    SCRIPT,
    SPAWN,
    Producer,
    assert_each_run_once,
    exporter_of,
    wait_until,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver import Receiver
    from tests.harness import Launcher, Process

PROGRAM = str(APPS / "program.py")


def names(collector: Receiver) -> list[str]:
    return sorted(span.name for span in collector.spans)


def wait_for_names(collector: Receiver, *expected: str) -> None:
    wait_until(
        lambda: names(collector) == sorted(expected), 10, f"{expected} have come"
    )


def run(launcher: Launcher, what: str, **environ: str) -> Process:
    return launcher.start("exec", "--", sys.executable, PROGRAM, what, **environ)


def test_streams_and_status_are_the_programs(
    launcher: Launcher, collector: Receiver
) -> None:
    command = [str(SCRIPT), "exec", "--role", "web", "--", sys.executable, PROGRAM]
    done = subprocess.run(
        [*command, "talks"], env=launcher.environ, cwd=launcher.folder,
        input="hello", capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("HELLO", 7)
    (line,) = done.stderr.splitlines()
    assert "web, service 'shop-web'" in line
    wait_for_names(collector, "work")
    assert collector.spans[0].resource["celery.role"] == "web"


def test_the_program_is_this_very_process_and_dies_of_its_signal(
    launcher: Launcher, collector: Receiver
) -> None:
    """SIGTERM ends a program that handles no signals as ever, its spans are sent."""
    process = run(launcher, "waits")
    wait_until(lambda: str(process.popen.pid) in process.output, 20, "it waits")
    assert not psutil.Process(process.popen.pid).children()
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    wait_for_names(collector, "work")


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_children_of_multiprocessing_are_covered(
    launcher: Launcher, collector: Receiver, how: str
) -> None:
    assert run(launcher, how).wait() == 0
    wait_for_names(collector, "after", "before", "child")
    assert len({span.span_id for span in collector.spans}) == 3


@pytest.mark.parametrize(
    ("what", "expected"),
    [("executes", ("before", "last")), ("reloads", ("last",))],
)
def test_a_program_that_is_started_again_is_covered(
    launcher: Launcher, collector: Receiver, what: str, expected: tuple[str, ...]
) -> None:
    """By execv, as gunicorn; in a child, as a reloader. One start line."""
    process = run(launcher, what)
    assert process.wait() == 0
    wait_for_names(collector, *expected)
    assert len(process.own_lines) == 1


def test_other_python_programs_are_left_alone(launcher: Launcher) -> None:
    process = run(launcher, "others")
    assert process.wait() == 0
    assert process.output.splitlines()[-1] == f"[] {launcher.environ['PYTHONPATH']} []"


def test_forked_servers_share_an_exporter_process_and_lose_nothing(
    launcher: Launcher, collector: Receiver
) -> None:
    """The first process has no spans itself; SIGKILL of the others."""
    process = run(launcher, "serves")
    process.wait_for_output("served", count=2)
    exporter = exporter_of(process)
    children = psutil.Process(process.popen.pid).children()
    assert len(children) == 3
    for child in children:
        if child != exporter:
            child.kill()
    assert process.wait() == 0
    wait_for_names(collector, "before", *["child"] * 40)
    wait_until(lambda: not exporter.is_running(), 8, "the exporter has ended")


def test_a_daemon_outlives_the_process_that_started_it(
    launcher: Launcher, collector: Receiver
) -> None:
    assert run(launcher, "outlived").wait() == 0
    wait_for_names(collector, "daemon")


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (["no-such-program"], 127, "'no-such-program' is no command here"),
        (["./file"], 126, "'./file' cannot be executed"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_command_that_cannot_run_is_one_line(
    launcher: Launcher, command: list[str], status: int, text: str
) -> None:
    (launcher.folder / "file").write_text("")
    done = launcher.run("exec", *command)
    assert done.returncode == status
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_disabled_is_the_bare_program(launcher: Launcher, collector: Receiver) -> None:
    process = run(launcher, "executes", OTEL_SDK_DISABLED="true")
    assert process.wait() == 0
    assert process.output == ""
    assert not collector.spans


def test_bad_values_are_said_once_and_strict_is_78(launcher: Launcher) -> None:
    bad = {"OTEL_PROPAGATORS": "bagage"}
    process = run(launcher, "reloads", **bad)
    assert process.wait() == 0
    assert sum("OTEL_PROPAGATORS" in line for line in process.own_lines) == 1
    assert run(launcher, "reloads", OTEL_CELERY_STRICT="true", **bad).wait() == 78


def test_the_sitecustomize_that_ours_hides_is_run(
    launcher: Launcher, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("print('theirs')")
    path = f"{folder}{os.pathsep}{launcher.environ['PYTHONPATH']}"
    process = run(launcher, "last", PYTHONPATH=path)
    assert process.wait() == 0
    assert "theirs" in process.output.splitlines()


def test_setup_is_the_same_from_inside(launcher: Launcher, collector: Receiver) -> None:
    """Idempotent: the first role stays, one start line."""
    process = launcher.start(PROGRAM, "sets up", program=sys.executable)
    assert process.wait() == 0
    wait_for_names(collector, "work")
    assert collector.spans[0].service == "shop-producer"
    assert len(process.own_lines) == 1


@pytest.mark.parametrize("pool", ["prefork", "spawn", "threads"])
def test_setup_in_a_worker_of_plain_celery_has_the_same_guarantees(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """`celery worker` as it is: each run once, through recycled children."""
    options = SPAWN if pool == "spawn" else ["-P", pool]
    worker = launcher.worker(
        *options, "--max-tasks-per-child", "5", app="sets_up", program=CELERY
    )
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert len(worker.own_lines) == 1


@pytest.mark.parametrize("how", ["script", "module"])
def test_scripts_and_modules(launcher: Launcher, collector: Receiver, how: str) -> None:
    words = [PROGRAM] if how == "script" else ["-m", "program"]
    process = launcher.start("exec", "--", sys.executable, *words, "last")
    assert process.wait() == 0
    wait_for_names(collector, "last")


@pytest.mark.parametrize("ours", [True, False])
def test_as_the_first_process_of_a_container(launcher: Launcher, ours: bool) -> None:
    """Number 1: the kernel ignores SIGTERM for it, as without us; SIGINT ends it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a namespace of processes")
    before = [str(SCRIPT), "exec", "--"] if ours else []
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = launcher.start(
        *unshare[1:],
        *before,
        sys.executable,
        PROGRAM,
        "waits",
        program=Path("/usr/bin/unshare"),
    )
    process.wait_for_output("\n1\n" if ours else "1\n")
    (first,) = psutil.Process(process.popen.pid).children()
    first.send_signal(signal.SIGTERM)
    with pytest.raises(psutil.TimeoutExpired):
        first.wait(1)
    first.send_signal(signal.SIGINT)
    assert process.wait() != 0
    assert "KeyboardInterrupt" in process.output
