"""Web programs under ``exec``, and what is below a task: one trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.harness import Producer, exporter_of, runs, wait_until
from tests.support.otlp_http import QuietHandler, serve_http
from tests.support.processes import without_exporters
from tests.support.servers import APPS, free_port, is_open, producer_on, run_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.receiver.logs import ReceivedLog
    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher, Process

ROOT = Path(__file__).parent.parent.parent
BIN = ROOT / ".venv-web" / "bin"  # `make test` makes it
OTEL_CELERY = BIN / "otel-celery"
EXAMPLE = str(ROOT / "examples" / "fastapi")


@pytest.fixture(autouse=True)
def often(child_environ: dict[str, str]) -> None:
    assert OTEL_CELERY.exists(), "run `make .venv-web/installed`"
    child_environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"


def serve(launcher: Launcher, *command: object, **environ: str) -> tuple[Process, str]:
    """Start a web program; ``{port}`` becomes a free one. Return it and its address."""
    port = free_port()
    words = [str(word).replace("{port}", str(port)) for word in command]
    process = launcher.start(
        "exec", "--role", "web", "--", *words, program=OTEL_CELERY, **environ
    )
    wait_until(lambda: is_open(port), 30, f"{words[0]} listens:\n{process.output}")
    return process, f"http://127.0.0.1:{port}"


def ask(url: str, data: bytes | None = None, **headers: str) -> str:
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def ancestors(spans: list[ReceivedSpan], span: ReceivedSpan) -> list[str]:
    by_id = {each.span_id: each for each in spans}
    found = [span.name]
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        found.append(span.name)
    return found


@pytest.mark.parametrize("transport", ["redis", "rabbitmq"])
def test_request_wait_run_retry_and_database_are_one_trace(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    child_environ: dict[str, str],
    request: pytest.FixtureRequest,
    transport: str,
) -> None:
    """The example, with baggage from the request; published from a thread."""
    producer_on(transport, request, child_environ, broker)
    database = launcher.folder / "shop.db"
    environ = {
        "PYTHONPATH": EXAMPLE,
        "SHOP_DATABASE": f"sqlite:///{database}",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlite3",
    }
    worker = launcher.worker(app="shop.tasks", program=OTEL_CELERY, **environ)
    uvicorn = [BIN / "uvicorn", "shop.web:app", "--port", "{port}"]
    web, address = serve(launcher, *uvicorn, **environ)
    ask(f"{address}/orders/book", b"", **{"X-Tenant": "acme"})
    wait_until(
        lambda: any("INSERT" in span.name for span in collector.spans), 30, "it ran"
    )
    web.popen.send_signal(signal.SIGTERM)
    assert web.wait() in (0, -signal.SIGTERM)
    worker.stop()
    spans = collector.spans
    (insert,) = [span for span in spans if span.name.startswith("INSERT")]
    assert ancestors(spans, insert)[1:] == [
        "run/shop.tasks.charge",
        "apply_async/shop.tasks.charge",
        "run/shop.tasks.charge",
        "apply_async/shop.tasks.charge",
        "POST /orders/{item}",
    ]
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert (server.service, insert.service) == ("shop-web", "shop-worker")
    assert len(runs(spans)) == 2
    assert b"acme" in database.read_bytes()


def published(collector: Receiver, count: int) -> None:
    """Wait until so many publishes have come, each under its request."""

    def all_are_there() -> bool:
        spans = list(collector.spans)
        found = [span for span in spans if span.kind == "PRODUCER"]
        servers = {span.span_id for span in spans if span.kind == "SERVER"}
        return len(found) == count and {span.parent_id for span in found} <= servers

    wait_until(all_are_there, 15, f"{count} publishes are under their requests")


GUNICORN = [BIN / "gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "flask_site:app"]
# It forks in C: without its option --py-call-osafterfork, Python is not asked.
UWSGI = [
    BIN / "uwsgi", "--master", "--processes", "2", "--http-socket", "127.0.0.1:{port}",
    "--module", "flask_site:app", "--need-app", "--die-on-term",
]  # fmt: skip
SERVERS = {
    "gunicorn": GUNICORN,
    "uwsgi": UWSGI,
    "uwsgi --lazy-apps": [*UWSGI, "--lazy-apps"],
    "gunicorn --preload": [*GUNICORN, "--preload"],
    "flask": [BIN / "flask", "--app", "flask_site", "run", "--port", "{port}"],
    "flask --debug": [
        BIN / "flask", "--app", "flask_site", "run", "--debug", "--port", "{port}",
    ],
    "django": [
        BIN / "python", APPS / "django_manage.py", "runserver", "{port}",
    ],
    "django --noreload": [
        BIN / "python", APPS / "django_manage.py", "runserver", "--noreload", "{port}",
    ],
    "uvicorn --reload": [
        BIN / "uvicorn", "async_site:app", "--reload", "--port", "{port}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", SERVERS)
def test_servers_and_their_reloaders(
    launcher: Launcher, collector: Receiver, kind: str
) -> None:
    """Each request's publishes are in its trace, also from a thread pool; then SIGTERM."""
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlite3"}
    web, address = serve(launcher, *SERVERS[kind], **disabled)
    for _ in range(10):
        assert ask(f"{address}/publish")
    published(collector, 20 if "flask_site" in str(SERVERS[kind]) else 10)
    web.popen.send_signal(signal.SIGTERM)
    assert web.wait() in (0, -signal.SIGTERM)
    assert len(web.own_lines) == 1


def test_a_management_command_says_what_it_says_without_us(launcher: Launcher) -> None:
    migrate = [str(APPS / "django_manage.py"), "migrate", "--no-color"]
    database = launcher.folder / "db.sqlite3"
    plain = launcher.run(*migrate, program=BIN / "python")
    database.unlink()
    ours = launcher.run(
        "exec", "--", str(BIN / "python"), *migrate, program=OTEL_CELERY
    )
    assert (ours.returncode, ours.stdout) == (0, plain.stdout)
    assert "Applying auth.0001_initial... OK" in ours.stdout


def test_gunicorn_workers_share_one_exporter_process_which_is_replaced(
    launcher: Launcher, collector: Receiver
) -> None:
    """Nobody watches it in the first process, which has no spans: the workers do."""
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlite3"}
    _, address = serve(launcher, *GUNICORN, **disabled)
    web = launcher._started[-1]
    ask(f"{address}/publish")
    published(collector, 2)
    exporter_of(web).kill()
    end = time.monotonic() + 40
    collector.clear()
    while not collector.spans and time.monotonic() < end:
        ask(f"{address}/publish")
        collector.wait_for(bool, 0.5)
    assert collector.spans, "spans come again"


def requests_counted(collector: Receiver) -> float:
    return sum(
        point.count
        for point in collector.last_points()
        if point.metric.startswith("http.server.") and "duration" in point.metric
    )


@pytest.mark.parametrize(
    "kind", ["gunicorn", "gunicorn --preload", "uwsgi", "uwsgi --lazy-apps", "flask"]
)
def test_each_line_of_a_request_is_in_its_trace(
    launcher: Launcher, collector: Receiver, kind: str
) -> None:
    web, address = serve(launcher, *SERVERS[kind], OTEL_LOGS_EXPORTER="otlp")
    for _ in range(20):
        ask(f"{address}/line")
    web.popen.send_signal(signal.SIGTERM)
    web.wait()

    def lines() -> list[ReceivedLog]:
        return [each for each in collector.logs if each.logger == "site"]

    wait_until(lambda: len(lines()) >= 20, 15, "all lines come")
    servers = {span.span_id: span for span in collector.spans if span.kind == "SERVER"}
    assert len(lines()) == len({each.span_id for each in lines()}) == 20
    for each in lines():
        assert servers[each.span_id].trace_id == each.trace_id
        assert each.body == "a line of a request"
        assert each.service == "shop-web"


def workers_of(web: Process) -> list[psutil.Process]:
    """Return the processes that a server has started to answer requests."""
    children = psutil.Process(web.popen.pid).children()
    return without_exporters(children)


@pytest.mark.parametrize(
    "kind", [kind for kind in SERVERS if "wsgi" in kind or "gun" in kind]
)
def test_requests_are_counted_once_and_all(
    launcher: Launcher, collector: Receiver, kind: str
) -> None:
    """Workers that are recycled and killed; one series, of one instance."""
    words = ["4" if word == "2" else word for word in SERVERS[kind]]
    words += ["--max-requests", "10"]
    if kind.startswith("uwsgi"):
        words += ["--min-worker-lifetime", "0"]
    web, address = serve(
        launcher, *words,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis,sqlite3",
        OTEL_METRIC_EXPORT_INTERVAL="500",
    )  # fmt: skip
    answered = 0
    for number in range(200):
        try:
            ask(f"{address}/publish")
            answered += 1
        except OSError:  # its worker was killed
            continue
        if number in (60, 120):
            workers_of(web)[0].kill()
    if "--lazy-apps" in kind:  # a worker that still loads its site takes no signal
        wait_until(
            lambda: all(
                f"pid: {each.pid} (default app)" in web.output
                for each in workers_of(web)
            ),
            30,
            "all workers are ready",
        )
    if kind.startswith("uwsgi"):
        # uWSGI starts a worker up to two seconds after one has ended. One that it starts
        # after SIGTERM gets no signal, and uWSGI waits for it without end.
        wait_until(
            lambda: (
                [time.time() - each.create_time() > 3 for each in workers_of(web)]
                == [True] * 4
            ),
            30,
            "no worker is about to be replaced",
        )
    web.popen.send_signal(signal.SIGTERM)
    web.wait()
    wait_until(
        lambda: requests_counted(collector) >= answered, 15, "all requests are counted"
    )
    assert requests_counted(collector) == answered > 190
    assert len({p.resource["service.instance.id"] for p in collector.points}) == 1
    published_ = [
        point.value
        for point in collector.last_points()
        if point.metric == "messaging.client.sent.messages"
    ]
    assert sum(published_) == 2 * answered


COUNTS_AND_FORKS = """
import os, time
from opentelemetry import metrics

counter = metrics.get_meter("own").create_counter("own.count")
counter.add(5)
pid = os.fork()
if pid == 0:
    counter.add(1)
    time.sleep(1)
    os._exit(0)
os.waitpid(pid, 0)
counter.add(1)
"""


def test_what_was_counted_before_a_fork_is_counted_once(
    launcher: Launcher, collector: Receiver
) -> None:
    done = launcher.run(
        "exec", "--role", "job", "--", str(BIN / "python"), "-c", COUNTS_AND_FORKS,
        program=OTEL_CELERY,
        OTEL_METRIC_EXPORT_INTERVAL="200",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (point,) = [p for p in collector.last_points() if p.metric == "own.count"]
    assert point.value == 7


def test_a_program_that_does_not_fork_exports_its_own(
    launcher: Launcher, collector: Receiver
) -> None:
    code = (
        "from opentelemetry import metrics;"
        "metrics.get_meter('own').create_counter('own.count').add(3)"
    )
    done = launcher.run(
        "exec", "--role", "job", "--", str(BIN / "python"), "-c", code,
        program=OTEL_CELERY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (point,) = [p for p in collector.last_points() if p.metric == "own.count"]
    assert point.value == 3


def test_uvicorn_workers_are_covered(launcher: Launcher, collector: Receiver) -> None:
    environ = {"PYTHONPATH": f"{EXAMPLE}", "SHOP_DATABASE": "sqlite://"}
    web, address = serve(
        launcher, BIN / "uvicorn", "shop.web:app", "--port", "{port}", "--workers", "2",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis,sqlite3", **environ,
    )  # fmt: skip
    for _ in range(10):
        ask(f"{address}/orders/book", b"")
    published(collector, 10)
    web.popen.send_signal(signal.SIGTERM)
    web.wait()


@pytest.mark.parametrize("how", ["directly", "in_thread", "in_executor"])
def test_asynchronous_handlers_keep_the_requests_context(
    launcher: Launcher, collector: Receiver, how: str
) -> None:
    """Two requests at a time: each publish is under its own."""
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlite3"}
    uvicorn = [BIN / "uvicorn", "async_site:app", "--port", "{port}"]
    _, address = serve(launcher, *uvicorn, **disabled)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(f"{address}/{how}"), range(8)))
    published(collector, 8)
    parents = [span.parent_id for span in collector.spans if span.kind == "PRODUCER"]
    assert len(set(parents)) == 8


def test_under_opentelemetry_instrument_a_web_process_is_as_it_was(
    launcher: Launcher, collector: Receiver
) -> None:
    """Our package is installed beside it and takes nothing over."""
    port = free_port()
    flask = [BIN / "flask", "--app", "flask_site", "run", "--port", str(port)]
    web = launcher.start(
        *map(str, flask), program=BIN / "opentelemetry-instrument",
        OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none",
    )  # fmt: skip
    wait_until(lambda: is_open(port), 30, f"it listens:\n{web.output}")
    ask(f"http://127.0.0.1:{port}/publish")
    spans = collector.wait_for(
        lambda spans: any(span.kind == "SERVER" for span in spans), 10
    )
    assert {span.service for span in spans} == {"shop"}
    assert not any("celery.role" in span.resource for span in spans)
    assert not web.own_lines


@pytest.fixture
def postgres() -> Iterator[str]:
    with run_postgres() as port:
        yield f"host=127.0.0.1 port={port} user=shop dbname=postgres"


def test_what_a_task_asks_is_below_its_run(
    launcher: Launcher, collector: Receiver, broker: str, postgres: str
) -> None:
    """Databases, web pages, spans made by hand; what is on and off in the start line."""
    with serve_http(QuietHandler) as url:
        worker = launcher.worker(
            app="downstream", program=OTEL_CELERY, SHOP_PAGE=url, SHOP_POSTGRES=postgres,
            OTEL_CELERY_LOG_FORMAT="json",
        )  # fmt: skip
        producer = Producer(broker)
        producer.send("downstream.ask")
        producer.wait_for_results()
        worker.stop()
    (run,) = runs(collector.spans)
    below = [span.name for span in collector.spans if span.parent_id == run.span_id]
    systems = {span.attributes.get("db.system") for span in collector.spans}
    assert {"sqlite", "postgresql", "redis"} <= systems
    for name, count in (("numeric work", 1), ("GET", 3), ("select", 2), ("connect", 1)):
        assert below.count(name) >= count, below
    (start,) = worker.own_lines
    said = json.loads(start)
    named = {"httpx", "psycopg", "redis", "requests", "sqlalchemy", "sqlite3"}
    assert named <= set(said["instrumented"])
    assert said["off"]["psycopg2"] == "not installed"
    assert said["off"]["django"] == "no requests here"
    assert "psycopg2" not in said["message"]  # what is not there is no news


def test_the_example_shows_its_trace(tmp_path: Path) -> None:
    """`make example`."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [BIN / "python", EXAMPLE + "/run.py"], env=environ, capture_output=True,
        text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("POST /orders", "run/shop.tasks.charge", "INSERT"):
        assert name in done.stdout
