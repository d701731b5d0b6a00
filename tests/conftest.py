"""Fixtures: a real receiver, real brokers on free ports, the installed command."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.documented import undocumented
from tests.support.harness import (
    SCRIPT,
    Launcher,
    Producer,
    TracedWorker,
    assert_each_run_once,
)
from tests.support.servers import base_environ, run_rabbitmq, run_redis

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.support.harness import StartWorker


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree for this Python, made once for all processes of a test run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    tree = shared / "injected" / "tree"
    with (shared / "injected.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            done = subprocess.run(
                [SCRIPT, "inject", tree], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert f"PYTHONPATH={tree}:/app" in done.stdout
    return tree


_databases = iter(range(4096))


@pytest.fixture
def broker(redis_server: str) -> str:
    """An empty Redis database."""
    return f"{redis_server}/{next(_databases)}"


@pytest.fixture
def child_environ(tmp_path: Path, collector: Receiver, broker: str) -> dict[str, str]:
    """An environment built for the command, not inherited from the test run."""
    return base_environ(tmp_path) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_CELERY_SERVICE_NAME": "{name}-{role}",
        # `OTEL_CELERY_EXPORT=process make test` runs everything in the other mode.
        "OTEL_CELERY_EXPORT": os.environ.get("OTEL_CELERY_EXPORT", "auto"),
        "SHOP_BROKER": broker,
        "SHOP_BACKEND": broker,
    }


@pytest.fixture
def launcher(tmp_path: Path, child_environ: dict[str, str]) -> Iterator[Launcher]:
    """Starts commands in an empty folder and kills what a test leaves.

    Each line of ours that any of them says is in docs/troubleshooting.md.
    """
    with Launcher(tmp_path, child_environ) as started:
        yield started
    unknown = [line for each in started.outputs() for line in undocumented(each)]
    if unknown:
        pytest.fail(f"docs/troubleshooting.md does not know: {unknown}")


@pytest.fixture
def traced_worker(launcher: Launcher, collector: Receiver, broker: str) -> StartWorker:
    """Starts a worker; on leaving it is stopped, and each run has one span."""

    @contextmanager
    def start(
        *options: str, stop: int = signal.SIGTERM, **named: Any
    ) -> Iterator[TracedWorker]:
        worker = TracedWorker(launcher.worker(*options, **named), Producer(broker))
        yield worker
        worker.process.stop(stop)
        assert_each_run_once(collector, worker.producer)

    return start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the output of every started command beside a failure."""
    report = yield
    started = getattr(item, "funcargs", {}).get("launcher")
    if report.failed and isinstance(started, Launcher):
        report.sections += started.logs()
    return report
