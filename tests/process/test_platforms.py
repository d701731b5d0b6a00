"""A system that lacks what Linux has and others do not: docs/platforms.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.process.test_metrics import total
from tests.support.harness import Producer, assert_each_run_once, exporter_of, run_some

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

# What CPython's documentation marks as of Linux alone, and is not on macOS.
LESS = """
import fcntl, mmap, os, socket

for module, marks in ((os, ("memfd_", "MFD_", "eventfd", "sched_", "pidfd_")),
                      (fcntl, ("F_ADD_SEALS", "F_GET_SEALS", "F_SEAL_", "F_OFD_")),
                      (mmap, ("MADV_WIPEONFORK", "MADV_REMOVE", "MAP_POPULATE"))):
    for name in dir(module):
        if name.startswith(marks):
            delattr(module, name)

original = socket.socketpair


def socketpair(family=socket.AF_UNIX, type=socket.SOCK_STREAM, proto=0):
    if type & 0xf == socket.SOCK_SEQPACKET:
        raise OSError(43, "Protocol not supported")
    return original(family, type, proto)


socket.socketpair = socketpair
"""


def test_a_system_without_what_only_linux_has(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Spans and counts arrive all the same, through recycled children."""
    site = launcher.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LESS)
    path = os.pathsep.join([str(site), launcher.environ["PYTHONPATH"]])
    worker = launcher.worker("--max-tasks-per-child", "5", PYTHONPATH=path)
    producer = Producer(broker)
    run_some(producer, 40)
    assert exporter_of(worker)
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert total(collector.points, "messaging.process.duration") == 40
