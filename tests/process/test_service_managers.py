"""Celery's own init script and systemd unit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import (
    assert_nothing_left,
    daemon_of,
)
from tests.support.harness import (
    SCRIPT,
    Producer,
    assert_each_run_once,
    run_some,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher


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
