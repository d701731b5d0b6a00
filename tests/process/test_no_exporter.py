"""An exporter process that cannot be had: no task waits for it, and what is lost is said."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import (
    CELERY,
    Producer,
    run_some,
    run_tasks,
    wait_until,
    with_site,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

TASKS = 400


def seconds_for_tasks(producer: Producer) -> float:
    start = time.monotonic()
    producer.send_many("shop.noop", TASKS)
    producer.wait_for_results(120)
    producer.results.clear()
    return time.monotonic() - start


def test_no_task_waits_for_an_exporter_process_that_dies_at_each_start(
    launcher: Launcher, broker: str
) -> None:
    """The same tasks under plain Celery, in the same minute."""
    producer = Producer(broker)
    plain = launcher.worker("-c1", program=CELERY)
    expected = seconds_for_tasks(producer)
    plain.stop()
    worker = launcher.worker(
        "-c1", OTEL_TRACES_EXPORTER="dies", PYTHONPATH=with_site(launcher, "dying")
    )
    # Some 0.1 s a task once the kernel's buffer was full.
    assert seconds_for_tasks(producer) < 3 * expected + 5
    worker.stop()
    assert any("the exporter process ends with status 1" in x for x in worker.own_lines)


@pytest.mark.parametrize("exporter", ["breaks_sending", "breaks_reading"])
def test_a_bug_in_the_exporter_process_leaves_its_place_and_message(
    launcher: Launcher, broker: str, exporter: str
) -> None:
    """On one line, in the log and in otel_status; the advice is about the process."""
    worker = launcher.worker(
        "-c1", OTEL_TRACES_EXPORTER=exporter, PYTHONPATH=with_site(launcher, "dying")
    )
    producer = Producer(broker)

    def is_said() -> bool:
        run_some(producer, 1)
        return "the exporter process ends: RuntimeError at " in worker.output

    wait_until(is_said, 30, "the line")
    (line, *_) = [x for x in worker.own_lines if "the exporter process ends" in x]
    assert "/dying_exporter.py:10 in fail: two lines and more" in line
    assert "Set OTEL_CELERY_EXPORT=inline until you know why it ends" in line
    worker.stop()


HOOK = """
import importlib.util
import sys

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "hooked_exporter":
            return importlib.util.spec_from_file_location(name, {source!r})

sys.meta_path.append(Finder)
"""


@pytest.fixture
def editable(tmp_path: Path) -> str:
    """A site folder whose exporter only the import hook of a .pth file finds."""
    site = tmp_path / "site-packages"
    site.mkdir()
    source = tmp_path / "elsewhere.py"
    source.write_text(
        "from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import"
        " OTLPSpanExporter as Hooked\n"
    )
    (site / "hooked_finder.py").write_text(HOOK.format(source=str(source)))
    (site / "hooked.pth").write_text("import hooked_finder\n")
    info = site / "hooked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\nhooked = hooked_exporter:Hooked\n"
    )
    (site / "sitecustomize.py").write_text(
        "import site, os; site.addsitedir(os.path.dirname(__file__))\n"
    )
    return str(site)


def test_an_exporter_of_an_editable_install_is_found(
    launcher: Launcher, collector: Receiver, broker: str, editable: str
) -> None:
    path = f"{editable}:{launcher.environ['PYTHONPATH']}"
    run_tasks(launcher, broker, OTEL_TRACES_EXPORTER="hooked", PYTHONPATH=path)
    wait_until(lambda: len(collector.spans) == 5, 10, "the spans arrive")


def test_an_exporter_that_only_the_worker_finds_is_said_and_counted(
    launcher: Launcher, broker: str
) -> None:
    worker = launcher.worker(
        "-c1", OTEL_TRACES_EXPORTER="hides", PYTHONPATH=with_site(launcher, "dying")
    )
    run_some(Producer(broker), 5)
    status = json.loads(
        launcher.run("-A", "shop", "inspect", "otel_status", "--json").stdout
    )
    (answer,) = status.values()
    assert answer["dropped"]["refused"] == answer["received"] == 5
    assert "hides cannot be imported" in answer["last_error"]
    worker.wait_for_output("the exporter hides cannot be imported")
    worker.stop()
