"""Django projects: settings module, django-configurations, autoreload."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import assert_nothing_left
from tests.support.harness import Producer, assert_each_run_once, run_some, runs
from tests.support.servers import APPS

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

WAYS = {
    "set in the project": {},
    "set in the environment": {"DJANGO_SETTINGS_MODULE": "django_site.settings"},
    "django-configurations": {
        "DJANGO_SETTINGS_MODULE": "django_site.configured",
        "DJANGO_CONFIGURATION": "Dev",
    },
}


@pytest.mark.parametrize("mode", ["process", "inline"])
@pytest.mark.parametrize("way", WAYS)
def test_a_django_project_is_traced_as_it_is(
    launcher: Launcher, collector: Receiver, broker: str, way: str, mode: str
) -> None:
    worker = launcher.worker(
        "--max-tasks-per-child", "5", app="django_site",
        OTEL_CELERY_EXPORT=mode, **WAYS[way],
    )  # fmt: skip
    producer = Producer(broker)
    run_some(producer, 20, "django_site.tasks.ask")
    assert {result.get() for result in producer.results} == {42}
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert_nothing_left(launcher)


def test_djangos_autoreload_restarts_a_traced_worker(
    launcher: Launcher, collector: Receiver, broker: str, tmp_path: Path
) -> None:
    """A file changes: the worker is ended and started again, every span arrives."""
    script = tmp_path / "reloading.py"
    script.write_bytes((APPS / "reloading.py").read_bytes())
    reloader = launcher.start(
        str(script), str(Path(sys.executable).with_name("otel-celery")),
        program=Path(sys.executable),
    )  # fmt: skip
    reloader.wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 20)
    script.touch()
    reloader.wait_for_output(" ready.", count=2)
    run_some(producer, 20)
    collector.wait_for(lambda spans: len(runs(spans)) >= 40, 10)
    reloader.stop(signal.SIGINT)
    assert_each_run_once(collector, producer)
