"""The spool directory: what the collector has not taken outlives the worker."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from otel_celery_launcher.signals import TRACES
from tests.support.harness import (
    Producer,
    assert_each_run_arrives,
    counters_of,
    exporter_of,
    wait_until,
    with_site,
)

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher, Process

SIZE = str(8 * 2**20)


@pytest.fixture
def spool(tmp_path: Path, child_environ: dict[str, str]) -> Path:
    folder = tmp_path / "spool"
    child_environ["OTEL_CELERY_SPOOL_DIRECTORY"] = str(folder)
    child_environ["OTEL_CELERY_SPOOL_BYTES"] = SIZE
    # A stop of a busy machine takes its time; where that is the point it is said.
    child_environ["OTEL_CELERY_SHUTDOWN_SECONDS"] = "30"
    return folder


def files(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.ring"))


def run_and_wait_until_read(worker: Process, producer: Producer, count: int) -> None:
    before = counters_of(worker).of(TRACES).received
    producer.send_many("shop.noop", count)
    producer.wait_for_results()
    wait_until(
        lambda: counters_of(worker).of(TRACES).received >= before + count,
        10,
        "the exporter process has read them",
    )


def kill_all(worker: Process) -> None:
    main = psutil.Process(worker.popen.pid)
    for process in [main, *main.children()]:
        process.kill()
    worker.wait()


def test_nothing_is_lost_with_the_worker_and_its_exporter_process(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    """SIGKILL of all with the collector away, as when a container ends; a new worker."""
    collector.stop()
    worker = launcher.worker()
    producer = Producer(broker)
    run_and_wait_until_read(worker, producer, 300)
    kill_all(worker)
    (file,) = files(spool)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_blocks * 512 >= int(SIZE)  # reserved
    collector.start()
    successor = launcher.worker()
    collector.wait_for(lambda spans: len(spans) >= 300, 25)
    wait_until(lambda: file not in files(spool), 10, "the file is removed")
    successor.stop()
    assert_each_run_arrives(collector, producer)
    assert files(spool) == []


def test_a_stop_with_the_collector_away_keeps_the_file_and_says_so(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    """And the command lists it, and delivers it by hand."""
    collector.stop()
    worker = launcher.worker(OTEL_CELERY_SHUTDOWN_SECONDS="5")
    producer = Producer(broker)
    run_and_wait_until_read(worker, producer, 100)
    assert worker.stop() < 10
    (line,) = [line for line in worker.own_lines if " wait in " in line]
    assert f"100 spans for {collector.endpoint} wait in {spool}." in line
    assert " lost" not in worker.output.replace("0 lost so far", "")
    found = launcher.run("-A", "shop", "doctor", "--wait", "1").stdout
    assert "OC215" in found
    listed = launcher.run("spool", str(spool))
    assert "no owner  spans: 100 for otlp_proto_grpc" in listed.stdout
    assert listed.returncode == 1
    given_up = launcher.run("spool", "--send", "--wait", "0.5", str(spool))
    assert given_up.returncode == 1
    assert "the collector does not take them: " in given_up.stderr
    collector.start()
    sent = []

    def is_sent() -> bool:
        sent.append(launcher.run("spool", "--send", str(spool)))
        return "100 spans sent, 0 refused, 0 left" in sent[-1].stderr

    # The owner of a file may have been killed, and be replaced.
    wait_until(is_sent, 20, "all is sent by hand")
    assert sent[-1].returncode == 0
    assert files(spool) == []
    assert_each_run_arrives(collector, producer)
    assert "nothing waits" in launcher.run("spool", str(spool)).stdout


def test_two_workers_share_a_directory_and_nothing_is_sent_by_two(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    collector.stop()
    workers = [launcher.worker("-n", f"{name}@%h") for name in ("one", "two")]
    lost = launcher.worker("-n", "three@%h")
    producer = Producer(broker)
    producer.send_many("shop.noop", 300)
    producer.wait_for_results()
    each = [counters_of(worker).of(TRACES) for worker in (*workers, lost)]
    wait_until(lambda: sum(one.received for one in each) >= 300, 10, "all is read")
    assert len(files(spool)) == 3
    kill_all(lost)
    collector.start()
    collector.wait_for(lambda spans: len(spans) >= 300, 30)
    for worker in workers:
        worker.stop()
    assert_each_run_arrives(collector, producer)
    assert len(collector.spans) == 300
    assert files(spool) == []


def test_a_killed_exporter_process_finds_its_own_file(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    worker = launcher.worker()
    producer = Producer(broker)
    for _ in range(4):
        producer.send_many("shop.noop", 100)
        producer.wait_for_results()
        exporter_of(worker).kill()
    worker.stop()
    assert_each_run_arrives(collector, producer, 4)
    assert files(spool) == []


def test_a_directory_that_others_can_write_is_refused(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    spool.mkdir()
    spool.chmod(0o777)
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.wait_for_output("the spool directory cannot be used: ")
    worker.stop()
    assert "has mode 0777: expected one that only its owner can write" in worker.output
    assert "OC214" in launcher.run("-A", "shop", "doctor", "--wait", "1").stdout
    assert_each_run_arrives(collector, producer)
    assert list(spool.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_one_line_and_the_queue_is_in_memory(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    spool.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", spool], check=True
    )
    try:
        worker = launcher.worker()
        producer = Producer(broker)
        producer.send_many("shop.noop", 20)
        producer.wait_for_results()
        worker.wait_for_output("No space left on device")
        worker.stop()
        assert worker.output.count("the spool directory cannot be used") == 1
        assert_each_run_arrives(collector, producer)
        assert list(spool.iterdir()) == []
    finally:
        subprocess.run(["umount", spool], check=True)


def test_a_file_of_another_version_is_left_alone(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    spool.mkdir(mode=0o700)
    other = spool / "other.ring"
    content = b"otelrg\x01\x07" + os.urandom(5 * 2**20)
    other.write_bytes(content)
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.wait_for_output("other.ring is left alone: another version has written it")
    worker.stop()
    assert_each_run_arrives(collector, producer)
    assert other.read_bytes() == content


def test_an_exporter_that_cannot_be_imported_removes_no_file(
    launcher: Launcher, collector: Receiver, broker: str, spool: Path
) -> None:
    """A new image without the package: what waits is there for the next one."""
    collector.stop()
    worker = launcher.worker()
    producer = Producer(broker)
    run_and_wait_until_read(worker, producer, 50)
    kill_all(worker)
    before = files(spool)
    broken = launcher.worker(
        OTEL_TRACES_EXPORTER="hides", PYTHONPATH=with_site(launcher, "dying")
    )
    other = Producer(broker)
    other.send_many("shop.noop", 5)
    other.wait_for_results()
    time.sleep(6)  # the file counts as left by then
    broken.stop()
    assert files(spool) == before
    collector.start()
    successor = launcher.worker()
    collector.wait_for(lambda spans: len(spans) >= 50, 25)
    successor.stop()
    assert_each_run_arrives(collector, producer)
    assert files(spool) == []
