"""A number that the application has given to a file of its own is never touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.signals import TRACES
from tests.support.harness import Producer, counters_of, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.harness import Launcher

# `DECOY_CHILDREN=1000 make test PYTEST_ARGS="-k recycled_children_write"` takes two minutes.
CHILDREN = int(os.environ.get("DECOY_CHILDREN", "150"))


@pytest.fixture
def decoys(tmp_path: Path, child_environ: dict[str, str]) -> Path:
    folder = tmp_path / "decoys"
    folder.mkdir()
    child_environ |= {"DECOYS": str(folder), "OTEL_CELERY_EXPORT": "process"}
    return folder


def assert_untouched(decoys: Path, at_least: int = 1) -> None:
    sizes = {file.name: file.stat().st_size for file in decoys.iterdir()}
    assert len(sizes) >= at_least
    assert not any(sizes.values()), sizes


@pytest.mark.timeout(60 + CHILDREN)
def test_recycled_children_write_to_no_file_of_the_application(
    launcher: Launcher, broker: str, decoys: Path
) -> None:
    """Each child loses its channel to a file: its spans are counted, no byte goes there."""
    worker = launcher.worker("-c8", "--max-tasks-per-child", "1", app="decoys")
    producer = Producer(broker)
    producer.send_many("decoys.check", CHILDREN)
    producer.wait_for_results(60 + CHILDREN / 2)
    assert all(result.get() for result in producer.results)
    counters = counters_of(worker)
    wait_until(
        lambda: counters.of(TRACES).lost >= 2 * CHILDREN, 10, "all spans are counted"
    )
    worker.stop()
    assert (
        counters.of(TRACES).lost == 2 * CHILDREN
    )  # the run spans, and one inside each
    assert len({name.partition("-")[0] for name in os.listdir(decoys)}) >= CHILDREN
    assert_untouched(decoys, CHILDREN)


def test_embedded_beat_writes_to_no_file_of_the_application(
    launcher: Launcher, broker: str, decoys: Path
) -> None:
    """`worker -B` closes every descriptor before the application opens its own."""
    worker = launcher.worker("-B", app="decoys")
    counters = counters_of(worker)
    wait_until(lambda: counters.of(TRACES).lost >= 4, 20, "ticks and runs are counted")
    worker.stop()
    assert_untouched(decoys, 3)  # beat, and two children


def test_detached_beat_writes_to_no_file_of_the_application(
    launcher: Launcher, broker: str, decoys: Path
) -> None:
    """`beat --detach` forks twice and closes every descriptor."""
    pidfile = launcher.folder / "beat.pid"
    started = launcher.run(
        "-A", "decoys", "beat", "--detach", "--pidfile", str(pidfile),
        "--logfile", str(launcher.folder / "beat.log"),
    )  # fmt: skip
    assert started.returncode == 0
    producer = Producer(broker)
    wait_until(pidfile.exists, 20, "beat runs")
    pid = int(pidfile.read_text())
    try:
        wait_until(lambda: queued(producer) >= 3, 20, "three ticks are published")
    finally:
        os.kill(pid, 15)
    wait_until(lambda: not pidfile.exists(), 20, "beat has ended")
    assert_untouched(decoys)


def queued(producer: Producer) -> int:
    with producer.app.connection_for_read() as connection:
        return int(connection.default_channel.client.llen("celery"))
