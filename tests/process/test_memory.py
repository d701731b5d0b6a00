"""A pool child takes no more memory than one of plain Celery's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from tests.support.harness import CELERY, SCRIPT, Producer, exporter_of, run_some

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

CHILDREN = 8
MB = 1_000_000


def test_a_child_weighs_what_plain_celerys_does(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Proportional set size (proc(5)): shared pages count by their part."""

    def a_child(program: Path) -> float:
        producer = Producer(broker)
        worker = launcher.worker("-c", str(CHILDREN), program=program)
        run_some(producer, 50 * CHILDREN)
        below = psutil.Process(worker.popen.pid).children()
        children = [each for each in below if each.name() != "otel-exporter"]
        assert len(children) == CHILDREN
        total: int = sum(each.memory_full_info().pss for each in children)
        if program == SCRIPT:
            exporter: psutil.Process = exporter_of(worker)
            assert exporter.memory_full_info().pss < 45 * MB
        worker.stop()
        return total / CHILDREN

    assert a_child(SCRIPT) < a_child(CELERY) + 2 * MB
    assert len(collector.spans) >= 50 * CHILDREN
