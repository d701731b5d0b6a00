"""The same program under ``celery`` and under ``otel-celery``: what it sees is the same.

The rule before all others: no worse than plain Celery. An application writes down what it
sees (``apps/observes.py``), once under each; the two are compared whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.harness import CELERY, SCRIPT, Producer, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

# What the launcher brings along. Of Celery's own it imports nothing that Celery does not.
BROUGHT_ALONG = {
    "_cython_3_2_8",
    "deprecated",
    "google",
    "grpc",
    "importlib_metadata",
    "opentelemetry",
    "otel_celery_launcher",
    "packaging",
    "psutil",
    "typing_extensions",
    "wrapt",
    "zipp",
}
OF_CELERY = {"amqp", "billiard", "celery", "click", "kombu", "redis", "vine"}

# Of every run of a program, and of nothing else.
VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([,.]\d+)?"), "TIME"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}"), "ID"),
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"\b\d+\.\d+(e-\d+)?s\b"), "SECONDS"),
    (re.compile(r"redis://[\w.:]+/\d+"), "BROKER"),
    (re.compile(r"ForkPoolWorker-\d+|ThreadPoolExecutor-\d+_\d+"), "POOL"),
    (re.compile(r"gen\d+@"), "gen@"),
    (re.compile(r"/bin/(otel-)?celery"), "/bin/CELERY"),
]


def normalised(text: str) -> str:
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    return text


def local_log(output: str) -> dict[str, list[str]]:
    """Return a worker's log by process, without the lines that are the launcher's.

    Two processes write at their own pace; each of them writes in its order.
    """
    found: dict[str, list[str]] = {}
    process = ""
    for line in output.splitlines():
        if "otel-celery: " in line:
            continue
        start = re.match(r"\[[^]]*/(MainProcess|\w+-[\d_]+)\]", line)
        process = normalised(start[1]) if start else process
        found.setdefault(process, []).append(normalised(line))
    return found


class Observed:
    """What an application saw under one of the two."""

    def __init__(self, file: Path, pool: str = "") -> None:
        self._file = file
        # Threads and greenlets of one process write at their own pace, too.
        self.is_ordered = pool not in ("threads", "gevent")
        self.log: dict[str, list[str]] = {}
        self.status: int | None = None

    @property
    def facts(self) -> list[tuple[str, Any]]:
        if not self._file.exists():
            return []
        lines = self._file.read_text().splitlines()
        return [(what, value) for what, value in map(json.loads, lines)]

    def of(self, what: str) -> list[Any]:
        return [value for each, value in self.facts if each == what]


def observe(
    launcher: Launcher, producer: Producer, program: Path, pool: str, **environ: str
) -> Observed:
    """Run each task of the application once, on a worker of this program."""
    producer.app.control.purge()  # what an earlier worker has put back at its stop
    file = launcher.folder / f"observed by {program.name}"
    seen = Observed(file, pool)
    worker = launcher.worker(
        "-c1", "-P", pool, app="observes", program=program, OBSERVED=str(file), **environ
    )  # fmt: skip
    publish(producer)
    wait_until(
        lambda: worker.output.count("] succeeded in") == 4, 20, "the log is complete"
    )
    worker.stop()
    seen.status = worker.popen.returncode
    seen.log = local_log(worker.output)
    return seen


def publish(producer: Producer) -> None:
    """Publish as a service does that knows nothing of tracing, one after the other."""

    def send(task: str, *arguments: Any, **options: Any) -> None:
        result = producer.app.send_task(task, arguments, **options)
        result.get(timeout=30, propagate=False)

    send("observes.looks")
    send("observes.looks", 1, headers={"x-own": "1"})
    send("observes.looks", countdown=0.01, expires=60, time_limit=50)
    for how in ("broken", "retry", "other"):
        send("observes.fails", how)
    send("observes.publishes")


POOLS = ["prefork", "threads", "solo", "gevent"]

# What costs a start, and what a worker without other instrumentations can do without.
NOT_NEEDED = ("opentelemetry.instrumentation", "opentelemetry.sdk.metrics", "packaging")


@pytest.fixture(params=POOLS)
def pair(
    request: pytest.FixtureRequest, launcher: Launcher, broker: str
) -> tuple[Observed, Observed]:
    """The application under plain Celery, and under the launcher."""
    producer = Producer(broker)
    plain, ours = (
        observe(launcher, producer, program, request.param)
        for program in (CELERY, SCRIPT)
    )
    return plain, ours


def assert_same(plain: Observed, ours: Observed, what: str) -> None:
    before, after = (map(json.dumps, each.of(what)) for each in (plain, ours))
    assert list(map(normalised, after)) == list(map(normalised, before)), what


def test_an_application_sees_what_it_sees_under_celery(
    pair: tuple[Observed, Observed],
) -> None:
    """Modules, request, headers, exceptions, logging tree, log, exit status."""
    plain, ours = pair
    assert_modules(plain, ours)
    (modules,) = ours.of("modules at import")
    assert not {name for name in modules if name.endswith("._logs")}, "none leave"
    assert not {name for name in modules if name.startswith(NOT_NEEDED)}
    assert_loggers(plain, ours, "loggers at import")
    assert_loggers(plain, ours, "loggers in a task")
    for what in (
        "pickle", "deepcopy", "json", "request", "repr", "headers",
        "failed publish", "failure", "modules of the consumer", "garbage collection",
    ):  # fmt: skip
        assert plain.of(what), what
        assert_same(plain, ours, what)
    tracers = [sorted(each.of("own build_tracer")) for each in (plain, ours)]
    assert tracers[0] == tracers[1] != []
    assert ours.of("headers")[0] is None
    assert ours.status == plain.status == 0
    if ours.is_ordered:
        assert ours.log == plain.log
    assert sorted_lines(ours.log) == sorted_lines(plain.log)


def sorted_lines(log: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the lines of each process, in no order.

    But for one that Celery 5.3 with gevent writes or not, by chance, also without us: now
    and then the acknowledgement of the last message is not sent until the stop.
    """
    return {
        process: sorted(line for line in lines if "unacknowledged message" not in line)
        for process, lines in log.items()
    }


def assert_modules(plain: Observed, ours: Observed) -> None:
    (before,), (after,) = plain.of("modules at import"), ours.of("modules at import")
    assert set(before) <= set(after)
    brought = {name.partition(".")[0] for name in set(after) - set(before)}
    assert not brought & OF_CELERY, sorted(set(after) - set(before))
    assert not {n for n in brought if is_third_party(n)} - BROUGHT_ALONG
    assert plain.of("logging hands records on") == ours.of("logging hands records on")


def is_third_party(name: str) -> bool:
    import sys

    return name not in sys.stdlib_module_names and not name.startswith("_")


def assert_loggers(plain: Observed, ours: Observed, what: str) -> None:
    """The loggers of what we bring along are its own."""
    assert len(plain.of(what)) == len(ours.of(what)) > 0
    own = BROUGHT_ALONG | {"push_response"}  # redis-py's, by whichever greenlet reads
    for before, after in zip(plain.of(what), ours.of(what), strict=True):
        before, after = (
            {name: each for name, each in tree.items() if name.split(".")[0] not in own}
            for tree in (before, after)
        )
        assert after == before


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_the_log_is_the_same_where_celery_takes_over_no_logger(
    launcher: Launcher, broker: str, pool: str
) -> None:
    """``worker_hijack_root_logger=False``: a handler of anybody's on root would end it."""
    producer = Producer(broker)
    plain, ours = (
        observe(launcher, producer, program, pool, SHOP_HIJACK="0")
        for program in (CELERY, SCRIPT)
    )
    assert_loggers(plain, ours, "loggers in a task")
    assert "a line of the application" in str(plain.log)
    assert ours.log == plain.log


def test_headers_of_a_traced_publish_are_texts(
    launcher: Launcher, broker: str, collector: Receiver
) -> None:
    """Also on a worker that is not ours: they may be handed on as headers of HTTP."""
    file = launcher.folder / "observed"
    launcher.worker("-c1", app="observes", program=CELERY, OBSERVED=str(file))
    launcher.run("-A", "observes", "call", "observes.looks", OBSERVED="/dev/null")
    seen = Observed(file)
    wait_until(lambda: seen.of("headers"), 20, "the task has run")
    (headers,) = seen.of("headers")
    assert set(headers) == {"otel_celery_published", "traceparent"}
    assert all(isinstance(value, str) for value in headers.values())


COMMANDS: list[Sequence[str]] = [
    ["beat", "--max-interval", "1"],
    ["call", "observes.looks"],
    ["shell", "--python"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
def test_other_commands_import_what_celery_imports(
    launcher: Launcher, command: Sequence[str]
) -> None:

    def start(program: Path) -> Observed:
        file = launcher.folder / f"observed by {program.name}"
        launcher.start("-A", "observes", *command, program=program, OBSERVED=str(file))
        seen = Observed(file)
        wait_until(lambda: seen.of("loggers at import"), 20, "the import")
        return seen

    plain, ours = start(CELERY), start(SCRIPT)
    assert_modules(plain, ours)
    assert_loggers(plain, ours, "loggers at import")
