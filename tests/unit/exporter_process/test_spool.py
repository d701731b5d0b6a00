"""Files of a spool directory: one owner each, and removed only when they are empty."""

from __future__ import annotations

import gc
import os
import struct
import time
from pathlib import Path

from otel_celery_launcher.exporter_process import spool as spool_module
from otel_celery_launcher.exporter_process.spool import (
    SPOOL_BYTES_AT_LEAST,
    RingFile,
    Spool,
    is_in_use,
    ring_in,
    survey,
)
from otel_celery_launcher.ipc.datagrams import Envelope
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_memory import Uncounted

READS = [Reads(1, "otlp", Uncounted())]
ENVELOPE = Envelope(1, b"a resource")


def a_spool(folder: Path, name: str) -> Spool:
    folder.chmod(0o700)
    return Spool(str(folder), SPOOL_BYTES_AT_LEAST, name)


def filled(file: RingFile, count: int) -> RingFile:
    ring = ring_in(file, READS)
    assert ring is not None
    for _ in range(count):
        ring.append(ENVELOPE.message([b"item"]))
    return file


def in_another_process(folder: Path, name: str, count: int) -> None:
    """Make a worker's file and fill it; its owner ends, and is long dead."""
    pid = os.fork()
    if not pid:
        filled(a_spool(folder, name).open_own(), count)
        os._exit(0)
    os.waitpid(pid, 0)


def test_a_file_without_an_owner_is_adopted_once(tmp_path: Path) -> None:
    in_another_process(tmp_path, "one", 5)
    first, second = a_spool(tmp_path, "two"), a_spool(tmp_path, "three")
    (file,) = first.orphans()
    gc.collect()
    pid = os.fork()
    if not pid:
        os._exit(len(list(second.orphans())))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    ring = ring_in(file, READS)
    assert ring is not None
    assert ring.cursors[0].queued == 5


def test_a_file_whose_owner_was_alive_a_moment_ago_is_left(tmp_path: Path) -> None:
    """Its successor comes within a second."""
    in_another_process(tmp_path, "one", 5)
    own = a_spool(tmp_path, "one").open_own()
    ring = ring_in(own, READS)
    assert ring is not None
    ring.note_alive()
    own.memory.release()
    assert list(a_spool(tmp_path, "two").orphans()) == []


def test_to_look_at_a_file_releases_no_lock_later(tmp_path: Path) -> None:
    in_another_process(tmp_path, "one", 5)
    (path,) = tmp_path.glob("*.ring")
    assert survey(path) == {"otlp": 5}
    (file,) = a_spool(tmp_path, "two").orphans()
    gc.collect()
    pid = os.fork()
    if not pid:
        os._exit(is_in_use(path))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert file.path == path


def test_an_own_file_that_another_has_adopted_is_not_replaced(
    tmp_path: Path,
) -> None:
    in_another_process(tmp_path, "one", 5)
    adopter = a_spool(tmp_path, "two")
    (file,) = adopter.orphans()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        spool_module.OWN_PAUSE = 0.01
        own = a_spool(tmp_path, "one").open_own()
        filled(own, 7)
        os.write(write, struct.pack("Q", own.inode))
        time.sleep(30)
    (inode,) = struct.unpack("Q", os.read(read, 8))
    try:
        assert inode != file.inode
        file.remove()
        (left,) = tmp_path.glob("*.ring")
        assert left.stat().st_ino == inode
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_long_names_stay_unique(tmp_path: Path) -> None:
    for number in range(2):
        in_another_process(tmp_path, "x" * 300 + f"-{number}", 1)
    assert len(list(tmp_path.glob("*.ring"))) == 2
