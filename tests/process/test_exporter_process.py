"""Process mode: spans survive the process that made them."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from otel_celery_launcher.ipc.counter_rows import EXPORTER_ROW
from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.signals import TRACES
from tests.support.clock import Clock
from tests.support.harness import (
    CELERY,
    SCRIPT,
    Producer,
    assert_each_run_once,
    counters_of,
    exporter_of,
    run_some,
    runs,
    wait_until,
)
from tests.support.processes import readable_interpreter
from tests.support.servers import free_port

if TYPE_CHECKING:
    from tests.support.harness import Launcher, Process, StartWorker


@pytest.fixture(autouse=True)
def process_mode(child_environ: dict[str, str]) -> None:
    child_environ["OTEL_CELERY_EXPORT"] = "process"


def children_of(worker: Process) -> list[psutil.Process]:
    """Return the pool children. Waits for the exporter, which is none, to be named."""
    exporter = exporter_of(worker)
    children = psutil.Process(worker.popen.pid).children()
    return [each for each in children if each.pid != exporter.pid]


# The others: test_lossless.py, in both modes.
POOLS = {
    "gevent": ["-P", "gevent"],
    "eventlet": ["-P", "eventlet"],
}


@pytest.mark.parametrize("pool", POOLS)
def test_green_pools_lose_nothing_at_a_warm_stop(
    traced_worker: StartWorker, pool: str
) -> None:
    with traced_worker(*POOLS[pool]) as worker:
        worker.run("shop.noop", 200)
    assert worker.process.popen.returncode == 0
    assert "by an exporter process" in worker.process.output


def wait_until_ended(broker: str, count: int) -> None:
    """Wait until so many run spans have ended: a result is stored before that."""
    client = redis.Redis.from_url(broker)
    wait_until(lambda: client.llen("ended") >= count, 30, f"{count} spans have ended")


def test_killed_children_lose_no_span_that_has_ended(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGKILL of every child right after its last span ended."""
    worker = launcher.worker(app="faulty")
    producer = Producer(broker)
    for number in range(1, 6):
        for _ in range(40):
            producer.send("faulty.work", 1)
        wait_until_ended(broker, 40 * number)
        for child in children_of(worker):
            child.kill()
    worker.stop()
    assert_each_run_once(collector, producer)


def test_killed_main_process_loses_nothing_where_the_exporter_outlives_it(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGKILL of the main process on a bare host; nothing is left behind."""
    worker = launcher.worker(app="faulty")
    producer = Producer(broker)
    for _ in range(100):
        producer.send("faulty.work", 1)
    wait_until_ended(broker, 100)
    exporter = exporter_of(worker)
    worker.popen.kill()
    worker.wait()
    assert_each_run_once(collector, producer)
    wait_until(lambda: not exporter.is_running(), 8, "the exporter has ended")


def test_killed_exporter_is_replaced_within_two_seconds_and_loses_nothing_unread(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Spans handed over while no exporter lives wait in the kernel."""
    worker = launcher.worker()
    producer = Producer(broker)
    first = exporter_of(worker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    totals = counters_of(worker).of(TRACES)
    # What it is sending when it is killed comes twice.
    wait_until(lambda: totals.exported >= 20 and not totals.queued, 10, "all is sent")
    first.suspend()  # reads nothing any more
    producer.send_many("shop.noop", 200)
    producer.wait_for_results()
    killed = time.monotonic()
    first.kill()
    wait_until(
        lambda: exporter_of(worker).pid != first.pid, 5, "there is a new exporter"
    )
    assert time.monotonic() - killed < 2
    worker.stop()
    assert_each_run_once(collector, producer)


def test_stopped_exporter_delays_no_task_and_is_replaced(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGSTOP: tasks at full speed; after 10 s without a sign of life a new one."""
    worker = launcher.worker()
    producer = Producer(broker)
    first = exporter_of(worker)
    first.suspend()
    start = time.monotonic()
    producer.send_many("shop.inner", 50, 20)
    producer.wait_for_results()
    assert time.monotonic() - start < 5
    wait_until(
        lambda: exporter_of(worker).pid != first.pid, 20, "there is a new exporter"
    )
    worker.stop()
    assert_each_run_once(collector, producer)
    assert len(collector.spans) == 50 * 21


def test_twenty_thousand_spans_of_a_tight_loop_all_arrive(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    producer.send("shop.inner", 20_000)
    producer.wait_for_results()
    worker.stop()
    collector.wait_for(lambda spans: len(spans) >= 20_001, 20)
    assert len({span.span_id for span in collector.spans}) == 20_001
    assert len(collector.spans) == 20_001


# 525 spans a second; `make outage` makes it a minute.
OUTAGE_SECONDS = int(os.environ.get("OUTAGE_SECONDS", "8"))


@pytest.mark.timeout(120 + 2 * OUTAGE_SECONDS)
def test_collector_outage_loses_nothing(launcher: Launcher, broker: str) -> None:
    """Down for some seconds under load, then up again on the same port."""
    receiver = Receiver(port=free_port())
    worker = launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    producer = Producer(broker)
    expected = OUTAGE_SECONDS * 25 * 21
    for _ in range(OUTAGE_SECONDS):
        producer.send_many("shop.inner", 25, 20)
        threading.Event().wait(1)
    producer.wait_for_results()
    memory = exporter_of(worker).memory_info().rss
    with receiver:
        receiver.wait_for(lambda spans: len(spans) >= expected, 30)
        worker.stop()
        assert_each_run_once(receiver, producer)
        assert len(receiver.spans) == expected
    assert 1 <= worker.output.count("spans do not reach") <= 1 + OUTAGE_SECONDS // 60
    assert memory < 100 * 2**20


def test_one_connection_to_the_collector_from_eight_children(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c8")
    producer = Producer(broker)
    producer.send_many("shop.noop", 200)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
    assert len(collector.peers) == 1


def test_the_worker_carries_no_grpc_and_no_thread(launcher: Launcher) -> None:
    """Main process and children have the threads they have under plain Celery."""
    found = {}
    for program in (CELERY, SCRIPT):
        worker = launcher.worker("-c1", program=program)
        main = psutil.Process(worker.popen.pid)
        children = main.children() if program is CELERY else children_of(worker)
        processes = [main, *children]
        found[program.name] = [each.num_threads() for each in processes]
        files = [each.path for one in processes for each in one.memory_maps()]
        assert files
        assert not [path for path in files if "cygrpc" in path]
        worker.stop()
    assert found["otel-celery"] == found["celery"]


def test_spans_beside_a_busy_thread_go_together(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """A send gives the interpreter away for 5 ms: 2,000 of them would take 10 s."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    took = producer.send("shop.beside_a_busy_thread", 2000).get(timeout=60)
    assert took < 3
    worker.stop()
    collector.wait_for(lambda spans: len(spans) >= 2001, 10)
    assert len(collector.spans) == 2001


def test_a_step_of_the_wall_clock_changes_nothing(
    launcher: Launcher, collector: Receiver, broker: str, tmp_path: Path
) -> None:
    """Half an hour ahead, an hour back: the same exporter, no line, every span."""
    clock = Clock(tmp_path)
    worker = launcher.worker(**clock.environ)
    exporter = exporter_of(worker)
    producer = Producer(broker)
    for offset in (0, 1800, -1800):
        clock.step(offset)
        producer.send_many("shop.noop", 50)
        producer.wait_for_results()
        wait_until(
            lambda: len(runs(collector.spans)) >= len(producer.parents),
            5,
            "all is received",
        )
    assert exporter_of(worker).pid == exporter.pid
    assert worker.stop() < 10
    assert_each_run_once(collector, producer)
    starts = sorted(span.start - time.time() for span in collector.spans)
    assert starts[0] < -1700
    assert starts[-1] > 1700
    assert len(worker.own_lines) == 1


def test_force_flush_waits_until_the_spans_are_sent_and_shutdown_ends_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """`provider.force_flush()` in a task means what it says; so do later tasks."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    flushed, at = producer.send("shop.flushes").get(timeout=20)
    assert flushed
    assert collector.arrived["flushed"] <= at
    producer.send_many("shop.noop", 10)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)


def test_a_process_out_of_descriptors_hands_its_spans_over(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """A send needs no descriptor of its own."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    assert producer.send("shop.exhausts").get(timeout=60) > 100
    worker.stop()
    collector.wait_for(lambda spans: len(spans) >= 51, 10)
    assert len(collector.spans) == 51
    assert_each_run_once(collector, producer)


def test_a_path_object_in_the_import_path_does_no_harm(
    traced_worker: StartWorker,
) -> None:
    with traced_worker(SHOP_PATHS="1") as worker:
        worker.run("shop.noop", 10)


def test_forks_of_a_task_keep_their_spans(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Processes that a task starts hand over their spans, too."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    producer.send("shop.forks")
    producer.send("shop.multiprocesses")
    producer.wait_for_results()
    worker.stop()
    collector.wait_for(lambda spans: len(spans) >= 4, 5)
    names = sorted(span.name for span in collector.spans)
    assert names[:2] == ["in a fork", "in a process"]
    assert_each_run_once(collector, producer)


def test_exporter_stays_clean_under_opentelemetry_instrument(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """The exporter process is not instrumented, and does not look like a worker."""
    folder = Path(sys.executable).parent
    worker = launcher.start(
        "otel-celery", "-A", "shop", "worker", "-l", "INFO", "-c", "1",
        program=folder / "opentelemetry-instrument",
        PATH=f"{folder}:{launcher.environ['PATH']}",
        OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none",
    ).wait_until_ready()  # fmt: skip
    exporter = exporter_of(worker)
    assert "celery worker" not in " ".join(exporter.cmdline())
    producer = Producer(broker)
    producer.send("shop.noop")
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)


def test_a_module_in_the_working_directory_does_not_shadow_the_exporters(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    (launcher.folder / "queue.py").write_text("raise SystemExit('shadowed')\n")
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send("shop.noop")
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)


def test_call_returns_as_fast_as_celerys_and_keeps_its_output_free(
    launcher: Launcher, collector: Receiver
) -> None:
    """`$(otel-celery -A app call …)` waits for nobody who holds the pipe."""
    start = time.monotonic()
    found = launcher.run("-A", "shop", "call", "shop.noop")
    assert re.fullmatch(r"[0-9a-f-]{36}\n", found.stdout)
    assert time.monotonic() - start < 5
    assert len(collector.spans) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_stop_of_the_whole_process_group_loses_nothing(
    launcher: Launcher, collector: Receiver, broker: str, number: signal.Signals
) -> None:
    """Ctrl-C and control-group kills reach every process; nothing is left behind."""
    worker = launcher.worker()
    producer = Producer(broker)
    producer.send_many("shop.noop", 100)
    producer.wait_for_results()
    exporter = exporter_of(worker)
    os.killpg(worker.popen.pid, number)
    exporter.send_signal(number)
    worker.wait()
    assert_each_run_once(collector, producer)
    assert not exporter.is_running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")
def test_worker_drops_privileges_before_the_exporter_starts(
    launcher: Launcher, collector: Receiver, broker: str, tmp_path: Path
) -> None:
    """`--uid nobody` from root."""
    program = script_in_namespace(tmp_path, f"{readable_interpreter(tmp_path)} :")
    worker = launcher.worker("--uid", "nobody", "--gid", "nogroup", program=program)
    producer = Producer(broker)
    producer.send_many("shop.noop", 50)
    producer.wait_for_results()
    assert exporter_of(worker).username() == "nobody"
    worker.stop()
    assert_each_run_once(collector, producer)


def test_where_no_exporter_can_be_started_each_process_exports(
    traced_worker: StartWorker,
) -> None:
    """One line, and inline export from the start."""
    with traced_worker(SHOP_NO_EXECUTABLE="1") as worker:
        worker.run("shop.noop", 50)
    assert (
        "no exporter process can be started (/no/such/python: No such file or"
        " directory): each process of the worker exports its own spans"
    ) in worker.process.output


IN_A_NAMESPACE = """#!/bin/sh
exec unshare -m sh -c '{prepare} && exec "$@"' sh {script} "$@"
"""


def script_in_namespace(folder: Path, prepare: str) -> Path:
    """Return a program that changes mounts or groups before it is the launcher."""
    program = folder / "in-namespace"
    program.write_text(IN_A_NAMESPACE.format(prepare=prepare, script=SCRIPT))
    program.chmod(0o755)
    return program


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change mounts")
def test_read_only_root(traced_worker: StartWorker, tmp_path: Path) -> None:
    """The hand-off has no name and writes no file (billiard's heap needs a folder)."""
    prepare = "mount -o remount,ro,bind / && ! touch /tmp/x 2>/dev/null"
    with traced_worker(
        "--max-tasks-per-child",
        "20",
        program=script_in_namespace(tmp_path, prepare),
        TMPDIR="/dev/shm",
    ) as worker:
        worker.run("shop.noop", 100)


def test_an_idle_child_sends_what_it_had_to_keep(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """The kernel's buffer was full at the end of the last task before a quiet night."""
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    exporter = exporter_of(worker)
    exporter.suspend()
    producer.send("shop.inner", 20_000)
    producer.wait_for_results()
    exporter.resume()
    assert len(collector.wait_for(lambda spans: len(spans) >= 20_001, 10)) == 20_001
    run_some(producer, 1)


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")  # cgroup v1
MEMORY_BYTES = 256 * 2**20


@pytest.mark.skipif(
    not os.access(MEMORY_GROUPS / "cgroup.procs", os.W_OK),
    reason="needs a memory controller of cgroup v1 that we may change",
)
def test_a_long_outage_in_a_small_container_drops_the_oldest_and_survives(
    launcher: Launcher, broker: str, tmp_path: Path
) -> None:
    """256 MiB and 4 children: the queue stays at 5 %, what goes is counted."""
    group = MEMORY_GROUPS / f"otel-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
        program = script_in_namespace(tmp_path, f"echo $$ > {group}/cgroup.procs")
        receiver = Receiver(port=free_port())
        worker = launcher.worker(
            "-c4", program=program, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint
        )
        producer = Producer(broker)
        producer.send_many("shop.inner", 100, 1000)
        producer.wait_for_results()
        counters = counters_of(worker)
        made = 100 * 1001
        row = counters.rows[EXPORTER_ROW].of(TRACES)
        wait_until(  # what the exporter process drops it has received before
            lambda: row.received + counters.of(TRACES).lost - row.dropped >= made,
            30,
            "everything is handed over",
        )
        exporter = exporter_of(worker)
        assert exporter.memory_info().rss < 90 * 2**20
        assert counters.of(TRACES).lost > 1000
        with receiver:
            receiver.wait_for(
                lambda spans: len(spans) >= made - counters.of(TRACES).lost, 30
            )
            worker.stop()
        assert len(receiver.spans) == made - counters.of(TRACES).lost
        assert "oom_kill 0" in (group / "memory.oom_control").read_text()
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "it is empty")
        group.rmdir()


def test_autoscale_up_and_down_loses_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("--autoscale", "4,1", AUTOSCALE_KEEPALIVE="1")
    producer = Producer(broker)
    for _ in range(8):
        producer.send("shop.nap", 0.7)
    producer.send_many("shop.noop", 50)
    wait_until(lambda: len(children_of(worker)) == 4, 15, "the pool has grown")
    producer.wait_for_results()
    wait_until(lambda: len(children_of(worker)) == 1, 30, "the pool has shrunk")
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
