"""The commands of deploy/ are run: probes, and the stop that the units ask for."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from tests.support.documented import undocumented
from tests.support.harness import (
    SCRIPT,
    Producer,
    assert_each_run_once,
    counters_of,
    wait_until,
)
from tests.support.processes import without_exporters

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher, Process

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "deploy" / "systemd" / "otel-celery-worker@.service"


def docker_probe() -> list[str]:
    text = (ROOT / "Dockerfile").read_text()
    (found,) = re.findall(r"HEALTHCHECK .*\\\n\s+CMD (\[.+\])", text)
    return list(json.loads(found))


def kubernetes_probe() -> list[str]:
    text = (ROOT / "deploy" / "kubernetes" / "worker.yaml").read_text()
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    assert "OTEL_CELERY_HEALTH_FILE" in {each["name"] for each in container["env"]}
    # Those restart, and the file is as old as an outage of the broker.
    assert not {"startupProbe", "livenessProbe"} & container.keys()
    return list(container["readinessProbe"]["exec"]["command"])


@pytest.mark.parametrize("probe", [docker_probe(), kubernetes_probe()])
def test_a_probe_tells_a_worker_that_works(tmp_path: Path, probe: list[str]) -> None:
    file = tmp_path / "health"

    def status() -> int:
        # What a container runs without a shell; the program is the one under test.
        environ = {"OTEL_CELERY_HEALTH_FILE": str(file)}
        command = [str(SCRIPT), *probe[1:]]
        done = subprocess.run(
            command, env=environ, check=False, capture_output=True, text=True
        )
        assert undocumented(done.stderr) == []
        return done.returncode

    assert status() == 1, "there is none yet"
    file.touch()
    assert status() == 0
    old = time.time() - 60
    os.utime(file, (old, old))
    assert status() == 1


def unit_command(opts: str) -> list[str]:
    """Return what the unit executes, as systemd would expand it."""
    (line,) = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    line = line.replace("$CELERYD_OPTS", opts).replace("${CELERY_APP}", "shop")
    program, *words = shlex.split(line.replace("%i", "emails").replace("%%", "%"))
    assert Path(program).name == "otel-celery"
    return words


def children_of(worker: Process) -> list[psutil.Process]:
    found = psutil.Process(worker.popen.pid).children(recursive=True)
    return without_exporters(found)


def start_and_work(launcher: Launcher, broker: str) -> tuple[Process, Producer]:
    """Start the unit's command; a task is under way when this returns."""
    worker = launcher.start(*unit_command("-c 1"), program=SCRIPT).wait_until_ready()
    assert "emails@" in worker.output
    producer = Producer(broker)
    producer.send("shop.nap", 2)
    # Plain Celery may hang at a stop that meets a task which is just being received.
    counters = counters_of(worker)
    wait_until(lambda: any(counters.in_flight_records()), 20, "the task runs")
    return worker, producer


def test_the_units_stop_lets_tasks_finish(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """KillMode=mixed: SIGTERM to the main process alone."""
    assert "\nKillMode=mixed\n" in UNIT.read_text()
    worker, producer = start_and_work(launcher, broker)
    worker.stop(signal.SIGTERM)
    assert worker.popen.returncode == 0
    assert producer.results[0].state == "SUCCESS"
    assert_each_run_once(collector, producer)


def test_why_the_group_is_not_told(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """The control: KillMode=control-group, systemd's own, ends the task at once."""
    worker, producer = start_and_work(launcher, broker)
    for each in children_of(worker):
        each.send_signal(signal.SIGTERM)
    worker.stop(signal.SIGTERM)
    assert producer.results[0].state != "SUCCESS"
    del collector


def test_a_bad_setting_is_the_status_that_the_unit_does_not_restart(
    launcher: Launcher,
) -> None:
    assert "\nRestartPreventExitStatus=78\n" in UNIT.read_text()
    environ = {"OTEL_CELERY_STRICT": "true", "OTEL_PROPAGATORS": "bagage"}
    done = launcher.run(*unit_command("-c 1"), **environ)
    assert done.returncode == 78
