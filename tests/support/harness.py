"""Starting the installed command, publishing to it, and waiting with deadlines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from celery import Celery
from celery.bin.worker import worker as celery_worker

from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan

# Another command, such as a plain celery below an injected tree: make test-injected.
SCRIPT = Path(
    os.environ.get("TEST_COMMAND") or Path(sys.executable).with_name("otel-celery")
)
CELERY = Path(sys.executable).with_name("celery")

# A pool child whose last result the main process has not read, because the stop came
# between, waits half a minute for that, under plain Celery too (billiard 4.2, ``pool.py``,
# ``_ensure_messages_consumed``).
STOP_SECONDS = 60.0
# A line may be that of the successor, which SIGHUP starts only after such a stop.
SAID_SECONDS = STOP_SECONDS + 20

# How the installed Celery spawns its children; empty where it cannot.
SPAWN = (
    ["--pool-start-method=spawn"]
    if any("--pool-start-method" in option.opts for option in celery_worker.params)
    else []
)


def happens(is_true: Callable[[], object], seconds: float) -> bool:
    """Return whether something is true within so many seconds."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not is_true():
        if time.monotonic() > end:
            return False
        pause.wait(0.02)
    return True


def wait_until(is_true: Callable[[], object], seconds: float, why: str) -> None:
    if not happens(is_true, seconds):
        pytest.fail(f"not within {seconds} s: {why}")


# Folders with packages that a test puts on the import path.
SITES = Path(__file__).parent.parent / "process" / "sites"


@dataclass
class Process:
    """A started command, its output in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def own_lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if "otel-celery: " in line]

    def wait_for_output(
        self, text: str, seconds: float = SAID_SECONDS, count: int = 1
    ) -> None:
        def is_there() -> bool:
            ended = self.popen.poll() is not None
            found = self.output.count(text) >= count
            if ended and not found:
                pytest.fail(f"ended before {text!r}:\n{self.output}")
            return found

        wait_until(is_there, seconds, f"{text!r} in the output")

    def wait_until_ready(self) -> Process:
        self.wait_for_output(" ready.")
        return self

    def stop(
        self, number: int = signal.SIGTERM, seconds: float = STOP_SECONDS
    ) -> float:
        """Send a signal and wait for the end; return the seconds it took."""
        start = time.monotonic()
        self.popen.send_signal(number)
        self.wait(seconds)
        return time.monotonic() - start

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end within {seconds} s:\n{self._stacks()}")

    def _stacks(self) -> str:
        """Return what a worker that does not end says of itself: Celery's SIGUSR1."""
        before = self.output
        tree = [
            f"{process.pid} {process.status()} {process.cmdline()}"
            for process in psutil.Process(self.popen.pid).children(recursive=True)
        ]
        self.popen.send_signal(signal.SIGUSR1)
        happens(lambda: "=====" in self.output[len(before) :], 5)
        stops = [line for line in before.splitlines() if "shutdown" in line.lower()]
        return "\n".join([*tree, *stops, self.output[len(before) - 3000 :]])


def processes_in(home: str) -> list[psutil.Process]:
    """Return every process that runs in the environment of a test."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("HOME") == home:
                found.append(process)
    return found


@dataclass
class Launcher:
    """Starts processes in a folder; leaves none behind."""

    folder: Path
    environ: dict[str, str]
    _started: list[Process] = field(default_factory=list)
    _ran: list[str] = field(default_factory=list)  # what they said

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.popen.poll() is None:
                os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()
        for left in processes_in(self.environ["HOME"]):  # detached ones
            with suppress(psutil.NoSuchProcess):
                left.kill()

    def logs(self) -> list[tuple[str, str]]:
        return [
            (f"output of {process.popen.args!r}", process.output[-20_000:])
            for process in self._started
        ]

    def start(self, *arguments: str, program: Path = SCRIPT, **environ: str) -> Process:
        log = self.folder / f"{len(self._started)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [str(program), *arguments],
                env=self.environ | environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, log)
        self._started.append(process)
        return process

    def worker(
        self, *options: str, app: str = "shop", program: Path = SCRIPT, **environ: str
    ) -> Process:
        """Start a worker and wait until it is ready."""
        words = [] if any(word.startswith("-c") for word in options) else ["-c", "2"]
        return self.start(
            "-A", app, "worker", "-l", "INFO", "--without-mingle", "--without-gossip",
            *words, *options, program=program, **environ,
        ).wait_until_ready()  # fmt: skip

    def run(
        self, *arguments: str, program: Path = SCRIPT, seconds: float = 60,
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        done = subprocess.run(
            [str(program), *arguments],
            env=self.environ | environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        self._ran.append(done.stderr)
        return done

    def outputs(self) -> list[str]:
        """Return what every program has said so far."""
        return [*self._ran, *(process.output for process in self._started)]


class Producer:
    """Publishes with hand-made trace headers, as an instrumented service would."""

    def __init__(self, broker: str) -> None:
        self.app = Celery("producer", broker=broker, backend=broker)
        self.app.set_current = lambda: None
        self.parents: dict[str, str] = {}  # trace id: span id of the publisher
        self.results: list[Any] = []

    def next_ids(self) -> tuple[str, str]:
        """Return a trace and the publisher's span in it."""
        number = len(self.parents) + 1
        return f"{number:032x}", f"{number:016x}"

    def send(self, task: str, *arguments: Any, **options: Any) -> Any:
        trace_id, span_id = self.next_ids()
        headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        headers.update(options.pop("headers", {}))
        self.parents[trace_id] = span_id
        result = self.app.send_task(task, arguments, headers=headers, **options)
        self.results.append(result)
        return result

    def send_many(self, task: str, count: int, *arguments: Any) -> None:
        for _ in range(count):
            self.send(task, *arguments)

    def wait_for_results(self, seconds: float = 60) -> None:
        wait_until(
            lambda: all(result.ready() for result in self.results),
            seconds,
            "all tasks have a result",
        )

    def wait_until_acknowledged(self) -> None:
        """Wait until a worker has acknowledged each message it took (Redis only).

        A worker that is stopped between the two needs 30 seconds for its stop and gives
        the message back, plain Celery's as well.
        """
        with self.app.connection_for_read() as connection:
            client = connection.default_channel.client
            wait_until(
                lambda: not client.hlen("unacked"), 10, "each message is acknowledged"
            )


def run_some(producer: Producer, count: int = 20, task: str = "shop.noop") -> None:
    """Run tasks on the workers that are there."""
    producer.send_many(task, count)
    producer.wait_for_results()


def run_tasks(
    launcher: Launcher,
    broker: str,
    *options: str,
    app: str = "shop",
    count: int = 5,
    task: str = "shop.noop",
    **environ: str,
) -> tuple[Process, Producer]:
    """Start a worker, run tasks on it, stop it."""
    worker = launcher.worker(*options, app=app, **environ)
    producer = Producer(broker)
    producer.send_many(task, count, *([3] if task == "shop.inner" else []))
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    return worker, producer


@dataclass
class TracedWorker:
    """A worker, and a producer for it: ``traced_worker`` of tests/conftest.py."""

    process: Process
    producer: Producer

    def run(self, task: str, count: int = 1, *arguments: Any) -> None:
        """Publish a task a number of times, and wait for all results."""
        self.producer.send_many(task, count, *arguments)
        self.producer.wait_for_results()


StartWorker = Callable[..., AbstractContextManager[TracedWorker]]


def exporter_of(worker: Process) -> psutil.Process:
    """Return the exporter process; waits for it, over the longest pause."""
    found: list[psutil.Process] = []

    def look() -> bool:
        for each in psutil.Process(worker.popen.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that has just ended
                if each.name() == "otel-exporter":
                    found.append(each)
        return bool(found)

    wait_until(look, 40, "the exporter process is there")
    return found[0]


def hanging_process(client: redis.Redis) -> int:
    """Return the process of a task of ``traces.hangs``; waits for it."""
    wait_until(lambda: client.llen("hangs"), 20, "the task runs")
    found = client.lpop("hangs")
    assert isinstance(found, bytes)
    return int(found)


def runs(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in spans if span.kind == "CONSUMER"]


def assert_each_run_once(collector: Receiver, producer: Producer) -> None:
    """Run spans received = tasks run, each once, each under its producer's span."""
    expected = producer.parents
    collector.wait_for(lambda spans: len(runs(spans)) >= len(expected), 10)
    found = [
        (span.trace_id, span.parent_id)
        for span in runs(collector.spans)
        if span.trace_id in expected
    ]
    missing = sorted(expected.items() - set(found))
    assert not missing, f"no run span of {missing}"
    assert sorted(found) == sorted(expected.items()), "a run has two spans"
    ids = [span.span_id for span in collector.spans]
    assert len(ids) == len(set(ids)), "a span came twice"


def assert_each_run_counted(collector: Receiver, producer: Producer) -> None:
    """The counts of all workers, which have ended, add up to the tasks run.

    A worker that is started again is the same instance, from another start on.
    """

    def counted() -> float:
        last = {
            (point.key, point.resource["service.instance.id"], point.start): point
            for point in collector.points
            if point.metric == "messaging.process.duration"
        }
        return sum(point.count for point in last.values())

    wait_until(lambda: counted() >= len(producer.parents), 10, "all runs are counted")
    assert counted() == len(producer.parents)


def assert_each_run_arrives(
    collector: Receiver, producer: Producer, kills: int = 0
) -> None:
    """Each run is there; those that came twice were in flight at a kill."""
    expected = set(producer.parents.items())

    def found() -> list[tuple[str, str]]:
        return [
            (span.trace_id, span.parent_id)
            for span in runs(collector.spans)
            if span.trace_id in producer.parents
        ]

    collector.wait_for(lambda _: len(set(found())) >= len(expected), 15)
    missing = expected - set(found())
    assert not missing, f"{len(missing)} of {len(expected)} are missing"
    assert len(found()) - len(expected) <= kills * TRACES.batch


def with_site(launcher: Launcher, name: str) -> str:
    return f"{SITES / name}:{launcher.environ['PYTHONPATH']}"


def counters_of(worker: Process) -> Counters:
    """Return the worker's shared counters, through /proc."""
    for link in Path(f"/proc/{worker.popen.pid}/fd").iterdir():
        if "otel-celery-counters" in str(link.readlink()):
            return Counters(os.open(link, os.O_RDWR))
    raise AssertionError("the worker has no counters")
