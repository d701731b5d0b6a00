"""A pool child takes no more memory than one of plain Celery's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from tests.support.harness import CELERY, SCRIPT, Producer, exporter_of, run_some
from tests.support.processes import without_exporters

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

CHILDREN = 8
MB = 1_000_000


def child_and_exporter(
    launcher: Launcher, broker: str, program: Path, metrics: str = "otlp"
) -> tuple[float, float]:
    """Return the proportional set sizes (proc(5)): shared pages count by their part."""
    producer = Producer(broker)
    worker = launcher.worker(
        "-c", str(CHILDREN), program=program, OTEL_METRICS_EXPORTER=metrics
    )
    run_some(producer, 50 * CHILDREN)
    below = psutil.Process(worker.popen.pid).children()
    children = without_exporters(below)
    assert len(children) == CHILDREN
    of_children: int = sum(each.memory_full_info().pss for each in children)
    of_exporter = 0
    if program == SCRIPT:
        of_exporter = exporter_of(worker).memory_full_info().pss
    worker.stop()
    return of_children / CHILDREN, of_exporter


def test_a_child_weighs_what_plain_celerys_does(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    ours, exporter = child_and_exporter(launcher, broker, SCRIPT)
    plain, _ = child_and_exporter(launcher, broker, CELERY)
    assert ours < plain + 2 * MB
    assert exporter < 42 * MB
    assert len(collector.spans) >= 50 * CHILDREN


def test_metrics_add_little_to_a_child_and_to_the_exporter_process(
    launcher: Launcher, broker: str
) -> None:
    with_metrics = child_and_exporter(launcher, broker, SCRIPT)
    without = child_and_exporter(launcher, broker, SCRIPT, "none")
    child, exporter = (
        after - before for after, before in zip(with_metrics, without, strict=True)
    )
    assert child < 1.5 * MB  # 0.3 on the average; one pair is up to 0.9 off
    assert exporter < 3 * MB
