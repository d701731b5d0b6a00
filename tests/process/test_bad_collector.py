"""Telemetry never hurts the worker, whatever the collector does."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import CELERY, SCRIPT, Launcher, Producer, wait_until
from tests.support.servers import base_environ, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


pytestmark = pytest.mark.timed

WHOLE = bool(os.environ.get("WHOLE_MATRIX"))


@pytest.fixture(autouse=True, params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    """Both ways to export keep the same promises."""
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


@dataclass
class Figures:
    """Seconds of one worker's life."""

    ready: float
    tasks: float
    stop: float
    output: str

    @property
    def outage_lines(self) -> list[str]:
        """One a minute, whatever happens."""
        return [line for line in self.output.splitlines() if ": spans do" in line]

    @property
    def last_lines(self) -> list[str]:
        """One at the end, if something was lost that no line has told."""
        return [line for line in self.output.splitlines() if " spans lost: " in line]


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def plain(redis_server: str, module_folder: Path) -> Figures:
    """The same life under plain Celery: what we are compared with."""
    with Launcher(module_folder, base_environ(module_folder)) as launcher:
        return life(launcher, f"{redis_server}/4000", plain=True)


def life(
    launcher: Launcher, broker: str, *options: str, plain: bool = False, **environ: str
) -> Figures:
    environ |= {"SHOP_BROKER": broker, "SHOP_BACKEND": broker}
    start = time.monotonic()
    program = CELERY if plain else SCRIPT
    worker = launcher.worker(*options, program=program, **environ)
    ready = time.monotonic()
    producer = Producer(broker)
    producer.send_many("shop.noop", 200)
    producer.wait_for_results()
    done = time.monotonic()
    stop = worker.stop()
    assert worker.popen.returncode == 0
    return Figures(ready - start, done - ready, stop, worker.output)


@contextmanager
def refusing() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def never_answering() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def aborting(code: grpc.StatusCode) -> Callable[[], object]:
    @contextmanager
    def collector() -> Iterator[str]:
        def answer(context: grpc.ServicerContext) -> None:
            context.abort(code, "on purpose")

        with Receiver(answer=answer) as receiver:
            yield receiver.endpoint

    return collector


@contextmanager
def slow() -> Iterator[str]:
    """A collector that keeps each call open."""
    let_go = threading.Event()
    with Receiver(answer=lambda _: let_go.wait(60) and None) as receiver:
        yield receiver.endpoint
        let_go.set()


COLLECTORS = {
    "refused": refusing,
    "never answering": never_answering,
    "slow": slow,
    "UNAVAILABLE": aborting(grpc.StatusCode.UNAVAILABLE),
    "INVALID_ARGUMENT": aborting(grpc.StatusCode.INVALID_ARGUMENT),
    "UNAUTHENTICATED": aborting(grpc.StatusCode.UNAUTHENTICATED),
}


def assert_unhurt(found: Figures, plain: Figures) -> None:
    assert "Timed out waiting for UP message" not in found.output
    assert "Traceback" not in found.output
    assert found.tasks <= plain.tasks + 2
    assert found.ready <= plain.ready + 2
    assert found.stop <= plain.stop + 5
    assert len(found.outage_lines) <= 1, found.outage_lines
    assert len(found.last_lines) <= 1, found.last_lines


# In process mode nothing in a pool's process knows the collector.
COMBINATIONS = [
    (mode, pool, kind)
    for mode in ("process", "inline")
    for pool in ("prefork", "solo", "threads")
    for kind in COLLECTORS
    if WHOLE or mode == "inline" or pool == "prefork" or kind == "refused"
]


@pytest.mark.parametrize(("mode", "pool", "kind"), COMBINATIONS, indirect=["mode"])
def test_bad_collector_leaves_tasks_and_stop_alone(
    launcher: Launcher, broker: str, plain: Figures, kind: str, pool: str
) -> None:
    """README: tasks at full speed, one line a minute, a stop 5 s later at most."""
    with COLLECTORS[kind]() as endpoint:  # type: ignore[attr-defined]
        found = life(
            launcher, broker, "-P", pool,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="100",
        )  # fmt: skip
    assert_unhurt(found, plain)
    is_told = found.outage_lines or found.last_lines
    assert is_told or kind in ("never answering", "slow")


def test_collector_that_was_never_reached_delays_a_stop_by_half_a_second(
    launcher: Launcher, broker: str, plain: Figures
) -> None:
    """README: 0.5 s where no collector was ever reached."""
    with refusing() as endpoint:
        found = life(launcher, broker, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert found.stop <= plain.stop + 2  # children and main, and a noisy machine


def test_name_resolution_that_hangs_leaves_tasks_and_stop_alone(
    launcher: Launcher, tmp_path: Path, broker: str, plain: Figures
) -> None:
    """DNS that never answers, in a mount namespace with a resolv.conf of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root for port 53 and a mount namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        number = os.getpid() % 60_000  # an address of this run's own
        address = f"127.77.{number // 250}.{number % 250 + 1}"
        mute.bind((address, 53))
        resolv = tmp_path / "resolv.conf"
        resolv.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
        script = tmp_path / "in-namespace"
        script.write_text(
            "#!/bin/sh\n"
            f'exec unshare -m sh -c \'mount --bind {resolv} /etc/resolv.conf && exec {SCRIPT} "$@"\' sh "$@"\n'
        )
        script.chmod(0o755)
        worker = launcher.worker(
            "--max-tasks-per-child", "50",
            program=script,
            OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.example.org:4317",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )  # fmt: skip
        start = time.monotonic()
        producer = Producer(broker)
        producer.send_many("shop.noop", 200)
        producer.wait_for_results()
        tasks = time.monotonic() - start
        stop = worker.stop()
    assert "Timed out waiting for UP message" not in worker.output
    assert stop <= plain.stop + 5
    # Six children are recycled; each may take its part of the stop's time.
    assert tasks <= plain.tasks + 12


def test_recycled_children_do_not_wait_for_a_collector_that_is_down(
    launcher: Launcher, broker: str, plain: Figures
) -> None:
    """One task a child, collector refused: each child ends within half a second."""
    environ = {"SHOP_BROKER": broker, "SHOP_BACKEND": broker}

    def seconds(program: Path, endpoint: str) -> float:
        worker = launcher.worker(
            "--max-tasks-per-child", "1", program=program,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **environ,
        )  # fmt: skip
        producer = Producer(broker)
        start = time.monotonic()
        producer.send_many("shop.noop", 20)
        producer.wait_for_results()
        taken = time.monotonic() - start
        worker.stop()
        return taken

    with refusing() as endpoint:
        plain_seconds = seconds(CELERY, endpoint)
        found = seconds(SCRIPT, endpoint)
    assert found <= plain_seconds + 20 / 2 * 1.0


def test_recovery_is_one_line_and_spans_flow_again(
    launcher: Launcher, broker: str
) -> None:
    """Collector down, then up on the same port: one line each."""
    receiver = Receiver(port=free_port())
    worker = launcher.worker(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_EXPORTER_OTLP_TIMEOUT="2",
    )
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    worker.wait_for_output("spans do not reach")
    with receiver:

        def flows() -> bool:
            producer.send("shop.noop")
            threading.Event().wait(0.1)
            return len(receiver.spans) > 0

        wait_until(flows, 20, "spans arrive after the collector is back")
        worker.wait_for_output("again")
        worker.stop()
    assert worker.output.count("spans do not reach") == 1
    assert worker.output.count("again;") == 1
