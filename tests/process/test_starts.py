"""Every way in which Celery is started, on Redis and on RabbitMQ where it matters."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
import time
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
    assert_each_run_once,
    run_some,
    runs,
    wait_until,
)
from tests.support.servers import producer_on

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

# Broker and mode; test_matrix.py has both modes on Redis.
SETTINGS = ["process on redis", "process on rabbitmq", "inline on rabbitmq"]


@pytest.fixture(params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


@pytest.fixture(params=SETTINGS)
def producer(
    request: pytest.FixtureRequest,
    child_environ: dict[str, str],
    broker: str,
    tmp_path: Path,
) -> Producer:
    """Publishes on either broker; results come through Redis."""
    (tmp_path / "tmp").mkdir()
    child_environ["TMPDIR"] = str(tmp_path / "tmp")
    mode, _, transport = request.param.partition(" on ")
    child_environ["OTEL_CELERY_EXPORT"] = mode
    return producer_on(transport, request, child_environ, broker)


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
    assert sorted(ours.split()) == sorted(
        theirs.replace(sys.executable, str(SCRIPT)).split()
    )
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


def test_detached_worker_says_in_its_log_what_it_says(
    launcher: Launcher, collector: Receiver, producer: Producer
) -> None:
    daemon = detached_worker(
        launcher, OTEL_METRICS_EXPORTER="otlp", OTEL_CELERY_SHUTDOWN_SECONDS="long"
    )
    run_some(producer)
    daemon.stop()
    assert_each_run_once(collector, producer)
    texts = [line.partition("otel-celery: ")[2] for line in daemon.own_lines]
    assert ", worker, service 'shop-worker'" in texts[0]
    assert "OTEL_CELERY_SHUTDOWN_SECONDS is 'long'" in texts[1]
    assert texts[2] == "set, but not supported yet: OTEL_METRICS_EXPORTER"
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
    exporters = [p for p in processes_of(launcher) if p.name() == "otel-exporter"]
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
    if closed == "all three":
        assert len(Daemon(log, log).own_lines) == 1


@pytest.fixture(scope="session")
def flower_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flower, apart: every Celery command imports an installed flower at its start."""
    folder = tmp_path_factory.mktemp("flower")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    packages = ["flower>=2", "tornado", "prometheus_client", "humanize", "pytz"]
    subprocess.run([*pip, "--target", folder, *packages], check=True)
    return folder


def test_flower_is_a_subcommand(
    launcher: Launcher, collector: Receiver, broker: str, flower_folder: Path
) -> None:
    """Its tasks begin traces of role flower; SIGTERM ends it with status 0."""
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = launcher.worker()
    flower = launcher.start(
        "-A", "shop", "flower", f"--port={port}", "--address=127.0.0.1",
        FLOWER_UNAUTHENTICATED_API="true",
        PYTHONPATH=f"{launcher.environ['PYTHONPATH']}:{flower_folder}",
    )  # fmt: skip
    flower.wait_for_output("Visit me at")
    url = f"http://127.0.0.1:{port}"

    def is_healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/healthcheck", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(is_healthy, 20, "flower answers")
    request = urllib.request.Request(
        f"{url}/api/task/async-apply/shop.noop", data=b"{}", method="POST"
    )
    urllib.request.urlopen(request, timeout=20).close()
    collector.wait_for(lambda spans: bool(runs(spans)), 15)
    flower.stop()
    worker.stop()
    assert flower.popen.returncode == 0
    (run,) = runs(collector.spans)
    (publish,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert (publish.service, run.parent_id) == ("shop-flower", publish.span_id)
    assert_nothing_left(launcher)


class HealthFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def age(self) -> float:
        return time.time() - self.path.stat().st_mtime


def test_health_file_is_new_while_the_worker_works(
    launcher: Launcher, broker: str
) -> None:
    """Touched when ready and as heartbeats go, old when it hangs, removed at the end."""
    template = str(launcher.folder / "%n.health")
    worker = launcher.worker("-n", "w1@x", OTEL_CELERY_HEALTH_FILE=template)
    health = HealthFile(launcher.folder / "w1.health")
    wait_until(health.path.exists, 5, "the file is there")
    first = health.path.stat().st_mtime
    wait_until(lambda: health.path.stat().st_mtime > first, 5, "it is touched again")
    main = psutil.Process(worker.popen.pid)
    main.suspend()
    wait_until(lambda: health.age > 4, 10, "it grows old")
    main.resume()
    wait_until(lambda: health.age < 2, 5, "it is new again")
    worker.stop()
    assert not health.path.exists()


def test_health_file_that_cannot_be_written_is_one_line(
    launcher: Launcher, broker: str
) -> None:
    worker = launcher.worker(OTEL_CELERY_HEALTH_FILE="/proc/no/such")
    run_some(Producer(broker), 1)
    worker.stop()
    assert worker.popen.returncode == 0
    assert sum("OTEL_CELERY_HEALTH_FILE" in line for line in worker.own_lines) == 1


def test_health_file_of_somebody_else_is_not_removed(
    launcher: Launcher, broker: str
) -> None:
    precious = launcher.folder / "precious"
    precious.write_text("keep me")
    launcher.worker(OTEL_CELERY_HEALTH_FILE=str(precious)).stop()
    assert precious.read_text() == "keep me"


@pytest.fixture(scope="session")
def celery_extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes that Celery publishes: the `extra` folder of its source archive."""
    import tarfile

    import celery

    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
         "--no-binary", "celery", f"celery=={celery.__version__}", "-d", folder],
        check=True,
    )  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as found:
        found.extractall(folder, filter="data")
    (extra,) = folder.glob("celery-*/extra")
    return extra


@pytest.mark.skipif(os.geteuid() != 0, reason="Celery's init script wants root")
@pytest.mark.usefixtures("mode")
def test_celerys_own_init_script(
    launcher: Launcher, collector: Receiver, broker: str, celery_extra: Path
) -> None:
    """`CELERY_BIN=otel-celery` in /etc/default/celeryd is the whole change."""
    config = launcher.folder / "celeryd.conf"
    config.write_text(
        f"CELERY_BIN={SCRIPT}\nCELERY_APP=shop\nCELERYD_NODES='w1 w2'\n"
        f"CELERYD_OPTS=-c1\nCELERYD_LOG_LEVEL=INFO\nCELERYD_USER=root\n"
        f"CELERYD_PID_FILE={launcher.folder}/%n.pid\n"
        f"CELERYD_LOG_FILE={launcher.folder}/%n%I.log\n"
        f"CELERYD_CHDIR={launcher.folder}\nCELERYD_SU={launcher.folder}/su\n"
        "CELERY_SU=$CELERYD_SU\n"
    )
    config.chmod(0o644)
    # `su -c COMMAND` in the environment of the test: the users are not its subject.
    su = launcher.folder / "su"
    su.write_text('#!/bin/sh\nexec /bin/sh -c "$3"\n')
    su.chmod(0o755)
    script = celery_extra / "generic-init.d" / "celeryd"

    def init(verb: str) -> subprocess.CompletedProcess[str]:
        return launcher.run(
            str(script), verb, program=Path("/bin/sh"), CELERY_DEFAULTS=str(config)
        )

    nodes = [daemon_of(launcher, name) for name in ("w1", "w2")]
    assert init("start").returncode == 0
    for node in nodes:
        node.wait_for_log(" ready.")
    status = init("status")
    assert status.returncode == 0
    assert status.stdout.count(" is up...") == 2, status
    producer = Producer(broker)
    run_some(producer)
    assert init("graceful").returncode == 0  # SIGHUP
    for node in nodes:
        node.wait_for_log(" ready.", count=2)
    run_some(producer)
    assert init("stop").returncode == 0
    assert_each_run_once(collector, producer)
    assert_nothing_left(launcher, *(node.pidfile for node in nodes))


def test_celerys_own_systemd_unit(
    launcher: Launcher, collector: Receiver, broker: str, celery_extra: Path
) -> None:
    """Its command lines, with `CELERY_BIN` changed in the environment file."""
    unit = (celery_extra / "systemd" / "celery.service").read_text()
    commands = {}
    for line in unit.replace("\\\n", "").splitlines():
        name, _, command = line.partition("=")
        if name in ("ExecStart", "ExecReload", "ExecStop"):
            commands[name] = command.partition("-c '")[2].rstrip("'")
    environ = {
        "CELERY_BIN": str(SCRIPT),
        "CELERY_APP": "shop",
        "CELERYD_NODES": "w1",
        "CELERYD_OPTS": "-c1",
        "CELERYD_PID_FILE": f"{launcher.folder}/%n.pid",
        "CELERYD_LOG_FILE": f"{launcher.folder}/%n%I.log",
        "CELERYD_LOG_LEVEL": "INFO",
    }

    def execute(name: str) -> None:
        found = launcher.run("-c", commands[name], program=Path("/bin/sh"), **environ)
        assert found.returncode == 0, found

    node = daemon_of(launcher, "w1")
    execute("ExecStart")
    node.wait_for_log(" ready.")
    producer = Producer(broker)
    run_some(producer)
    execute("ExecReload")
    node.wait_for_log(" ready.", count=2)
    run_some(producer)
    execute("ExecStop")
    assert_each_run_once(collector, producer)
    assert_nothing_left(launcher, node.pidfile)
