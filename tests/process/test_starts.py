"""Every way in which Celery is started, on Redis and on RabbitMQ where it matters."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from celery.utils import term

from tests.support.daemons import (
    Daemon,
    assert_nothing_left,
    daemon_of,
    detached_worker,
    multi,
    processes_of,
)
from tests.support.harness import (
    CELERY,
    SCRIPT,
    SPAWN,
    Producer,
    assert_each_run_counted,
    assert_each_run_once,
    run_some,
    runs,
    wait_until,
)
from tests.support.processes import is_exporter

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher


def start_lines(daemon: Daemon) -> list[str]:
    return [line for line in daemon.own_lines if ", worker, service " in line]


def test_multi_starts_restarts_and_stops_traced_workers(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    nodes = [daemon_of(launcher, name) for name in ("w1", "w2")]
    multi(launcher, "start", "w1", "w2", "-c1")
    for node in nodes:
        node.wait_for_log(" ready.")
    run_some(producer)
    pids = [node.pid for node in nodes]
    multi(launcher, "restart", "w1", "w2", "-c1")
    for node in nodes:
        node.wait_for_log(" ready.", count=2)
    assert not set(pids) & {node.pid for node in nodes}
    run_some(producer)
    multi(launcher, "stopwait", "w1", "w2")
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert [len(start_lines(node)) for node in nodes] == [2, 2]
    assert [len(node.own_lines) for node in nodes] == [2, 2]
    assert_nothing_left(launcher, *(node.pidfile for node in nodes))


def test_multi_kill_leaves_nothing(launcher: Launcher) -> None:
    """SIGKILL of main: children and exporter end by themselves."""
    multi(launcher, "start", "w1", "-c2")
    daemon_of(launcher, "w1").wait_for_log(" ready.")
    multi(launcher, "kill", "w1")
    assert_nothing_left(launcher)


@pytest.mark.parametrize("verb", ["show", "names", "expand", "get"])
def test_multi_prints_what_celerys_prints(launcher: Launcher, verb: str) -> None:
    """Init scripts read it; `show` names the program that is really executed."""
    words = {"expand": ["%n.pid", "w1"], "get": ["w1@x", "w1@x"]}.get(
        verb, ["w1", "w2"]
    )
    ours, theirs = (
        multi(launcher, verb, *words, program=program) for program in (SCRIPT, CELERY)
    )
    # Celery's script may name another link to the same interpreter.
    python = rf"{re.escape(str(Path(sys.executable).parent))}/python[\d.]*"
    assert sorted(ours.split()) == sorted(re.sub(python, str(SCRIPT), theirs).split())
    if verb == "show":
        executed = [
            line.split()[0] for line in ours.splitlines() if " -m celery" in line
        ]
        assert executed == [str(SCRIPT)] * 2


def test_an_executable_of_the_users_is_kept_and_said(launcher: Launcher) -> None:
    found = launcher.run(
        "-A", "shop", "multi", "show", "w1", f"--executable={sys.executable}",
        f"--pidfile={launcher.folder}/p", f"--logfile={launcher.folder}/l",
    )  # fmt: skip
    assert found.returncode == 0
    assert found.stdout.count(str(SCRIPT)) == 0
    assert found.stderr.splitlines()[0] == (
        f"otel-celery: --executable is {sys.executable!r}: expected otel-celery; workers"
        " start as plain Celery; leave --executable out"
    )


def test_a_path_with_blanks_can_be_executed(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    folder = launcher.folder / "a folder"
    folder.mkdir()
    program = folder / "otel-celery"
    program.symlink_to(SCRIPT)
    multi(launcher, "start", "w1", "-c1", program=program)
    daemon = daemon_of(launcher, "w1").wait_for_log(" ready.")
    producer = Producer(broker)
    run_some(producer)
    daemon.stop()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)


def test_detached_worker_says_in_its_log_what_it_says(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    daemon = detached_worker(
        launcher, OTEL_CONFIG_FILE="otel.yaml", OTEL_CELERY_SHUTDOWN_SECONDS="long"
    )
    run_some(producer)
    daemon.stop()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    texts = [line.partition("otel-celery: ")[2] for line in daemon.own_lines]
    assert ", worker, service 'shop-worker'" in texts[0]
    assert "OTEL_CELERY_SHUTDOWN_SECONDS is 'long'" in texts[1]
    assert texts[2] == "set, but not supported yet: OTEL_CONFIG_FILE"
    assert len(texts) == 3
    assert_nothing_left(launcher, daemon.pidfile)


def test_detached_worker_reads_env_files_anew_at_a_hangup(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGHUP of a worker that `multi` started: the file is read again."""
    env_file = launcher.folder / "prod.env"
    env_file.write_text("OTEL_RESOURCE_ATTRIBUTES=release=1\n")
    found = launcher.run(
        "--env-file", "prod.env", "-A", "shop", "multi", "start", "w1", "-c1",
        f"--pidfile={launcher.folder}/%n.pid", f"--logfile={launcher.folder}/%n%I.log",
        "--loglevel=INFO",
    )  # fmt: skip
    assert found.returncode == 0, found
    daemon = daemon_of(launcher, "w1").wait_for_log(" ready.")
    producer = Producer(broker)
    run_some(producer, 1)
    env_file.write_text("OTEL_RESOURCE_ATTRIBUTES=release=2\n")
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_for_log(" ready.", count=2)
    run_some(producer, 1)
    daemon.stop()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert sorted(s.resource["release"] for s in collector.spans) == ["1", "2"]
    assert_nothing_left(launcher, daemon.pidfile)


def test_detached_beat_publishes_traces(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    daemon = daemon_of(launcher, "beat")
    worker = launcher.worker()
    found = launcher.run(
        "-A", "shop", "beat", "--detach", "-l", "INFO", "--max-interval", "1",
        "--pidfile", str(daemon.pidfile), "--logfile", str(daemon.logfile),
    )  # fmt: skip
    assert found.returncode == 0
    collector.wait_for(lambda spans: len(runs(spans)) >= 3, 20)
    daemon.stop()
    client = producer.app.backend.client
    wait_until(
        lambda: not client.llen("celery"), 10, "the worker has run what was published"
    )
    worker.stop()
    spans = collector.spans
    published = {span.trace_id for span in spans if span.kind == "PRODUCER"}
    assert {span.trace_id for span in runs(spans)} == published
    assert {s.service for s in spans if s.kind == "PRODUCER"} == {"shop-beat"}
    assert len(daemon.own_lines) == 1
    assert_nothing_left(launcher, daemon.pidfile)


def test_embedded_beat_keeps_the_log_short(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    """One line of ours; only one exporter process."""
    worker = launcher.worker("-B", "-c1")
    run_some(producer)
    collector.wait_for(lambda spans: len(runs(spans)) >= 23, 20)
    exporters = [p for p in processes_of(launcher) if is_exporter(p)]
    assert len(exporters) <= 1
    worker.stop()
    assert len(worker.own_lines) == 1
    assert len(worker.output) < 20_000
    assert_nothing_left(launcher)


def test_hangup_loses_nothing(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    """SIGHUP re-executes the worker right after its last task.

    Not while tasks wait in the pool: there plain Celery 5.7 hangs in two of three.
    """
    worker = launcher.worker()
    for restart in range(1, 3):
        run_some(producer, 50)
        worker.popen.send_signal(signal.SIGHUP)
        worker.wait_for_output(" ready.", count=restart + 1)
        children = psutil.Process(worker.popen.pid).children()
        assert not [each for each in children if each.status() == psutil.STATUS_ZOMBIE]
    run_some(producer, 50)
    worker.stop()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    del launcher.environ["TMPDIR"]  # Celery itself leaves a folder at each hangup
    assert_nothing_left(launcher)


def test_pool_restart_by_remote_control_loses_nothing(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    worker = launcher.worker(SHOP_POOL_RESTARTS="1")
    run_some(producer)
    (reply,) = producer.app.control.pool_restart(reply=True, timeout=20)
    assert "reload started" in str(reply)
    run_some(producer)
    worker.stop()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert_nothing_left(launcher)


def test_restarters_lose_nothing(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    """`watchmedo auto-restart` ends the whole process group by SIGINT, and starts anew."""
    for _ in range(3):
        worker = launcher.worker()
        run_some(producer, 10)
        os.killpg(worker.popen.pid, signal.SIGINT)
        worker.wait()
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert_nothing_left(launcher)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize(
    "environ",
    [
        {"SHOP_POOL": "threads"},
        {"SHOP_POOL": "solo"},
        {"SHOP_START_METHOD": "spawn"},
        {"CELERY_CUSTOM_WORKER_POOL": "pools:Custom", "SHOP_POOL": "custom"},
        {"CELERY_CUSTOM_WORKER_POOL": "pools:Forking", "SHOP_POOL": "custom"},
        {"CELERY_WORKER_POOL": "threads"},
        {"CELERY_WORKER_CONCURRENCY": "3", "CELERY_WORKER_HOSTNAME": "env@x"},
    ],
    ids=lambda environ: ",".join(f"{k}={v}" for k, v in environ.items()),
)
def test_pools_from_configuration_and_variables(
    launcher: Launcher, collector: Receiver, broker: str, environ: dict[str, str]
) -> None:
    """`-P` is not on the command line."""
    if "SHOP_START_METHOD" in environ and not SPAWN:
        pytest.skip("this Celery only forks")
    worker = launcher.start(
        "-A", "shop", "worker", "-l", "INFO", **environ
    ).wait_until_ready()  # fmt: skip
    producer = Producer(broker)
    run_some(producer)
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert_nothing_left(launcher)


@pytest.mark.usefixtures("mode")
def test_working_directory_pidfile_and_logfile(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`--workdir` has the .env file; pidfile and log as with Celery."""
    folder = launcher.folder / "app"
    folder.mkdir()
    (folder / ".env.worker").write_text("OTEL_RESOURCE_ATTRIBUTES=from=workdir\n")
    worker = launcher.start(
        "--workdir", str(folder), "-A", "shop", "worker", "-l", "INFO", "-c1",
        "--pidfile", "here.pid", "--logfile", "here.log",
    )  # fmt: skip
    daemon = Daemon(folder / "here.pid", folder / "here.log").wait_for_log(" ready.")
    assert daemon.pid == worker.popen.pid
    producer = Producer(broker)
    run_some(producer)
    worker.stop()
    assert {span.resource["from"] for span in collector.spans} == {"workdir"}
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    assert_nothing_left(launcher, daemon.pidfile)


CLOSED = {"stdin": "<&-", "stdout": ">&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("closed", CLOSED)
def test_closed_standard_streams(
    launcher: Launcher, collector: Receiver, broker: str, closed: str
) -> None:
    """Their numbers go to the next files opened: never to ours."""
    if "except AttributeError" not in inspect.getsource(term.supports_images):
        pytest.skip("this Celery itself does not start so (5.3, 5.4)")
    log = launcher.folder / "worker.log"
    program = launcher.folder / "closed"
    program.write_text(f'#!/bin/sh\nexec {SCRIPT} "$@" {CLOSED[closed]}\n')
    program.chmod(0o755)
    worker = launcher.start(
        "-A", "shop", "worker", "-l", "INFO", "-c2", "--logfile", str(log),
        program=program,
    )  # fmt: skip
    Daemon(log, log).wait_for_log(" ready.")
    producer = Producer(broker)
    run_some(producer)
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert_each_run_counted(collector, producer)
    if closed == "all three":
        assert len(Daemon(log, log).own_lines) == 1
