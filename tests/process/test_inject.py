"""An injected tree: applications traced by their environment alone."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from otel_celery_launcher.inject import at_start
from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import (
    SCRIPT,
    SPAWN,
    Launcher,
    Process,
    Producer,
    assert_each_run_once,
    exporter_of,
    processes_in,
    run_some,
    runs,
    wait_until,
)
from tests.support.otlp_http import http_receiver
from tests.support.processes import without_exporters
from tests.support.servers import APPS, IMAGE, free_port, is_open

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON, CELERY = IMAGE / "bin" / "python", IMAGE / "bin" / "celery"
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "fastapi"
HERE = "python" + ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def tree(made: Path, child_environ: dict[str, str]) -> Path:
    """The tree, in the environment of what a test starts."""
    child_environ["PYTHONPATH"] = f"{made}:{APPS}"
    return made


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A tree of a test's own, moved after it was made."""
    moved = tmp_path / "moved"
    shutil.copytree(made, moved, symlinks=True)
    return moved


def start(launcher: Launcher, *options: str, **environ: str) -> Process:
    return launcher.worker(*options, app="plain", program=CELERY, **environ)


WAYS = {
    "prefork": (),
    "spawn": tuple(SPAWN),
    "threads": ("-P", "threads"),
    "solo": ("-P", "solo"),
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "spawn" or SPAWN])
@pytest.mark.usefixtures("tree")
def test_every_run_arrives_from_an_image_without_opentelemetry(
    launcher: Launcher, collector: Receiver, broker: str, way: str
) -> None:
    """Protobuf 3.20 and requests 2.25 are the image's: its processes never import ours."""
    worker = start(launcher, *WAYS[way])
    producer = Producer(broker)
    run_some(producer, 40, "plain.noop")
    producer.send("plain.modules")
    producer.wait_for_results()
    in_main, in_child, argv, first_path, _ = producer.results[-1].get()
    assert (in_main, in_child) == ([], [])
    assert argv[1:4] == ["-A", "plain", "worker"]
    assert first_path == str(IMAGE / "bin")
    assert exporter_of(worker).is_running()
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert {span.service for span in runs(collector.spans)} == {"shop-worker"}
    assert len(worker.own_lines) == 1, worker.own_lines


@pytest.mark.usefixtures("tree")
def test_killed_runs_and_the_status_are_there(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.start(
        "-m", "celery", "-A", "plain", "worker", "-c", "2", "-l", "INFO",
        program=PYTHON,
    ).wait_until_ready()  # fmt: skip
    producer = Producer(broker)
    producer.send("plain.dies")
    producer.wait_for_results()
    status = launcher.run(
        "-A", "plain", "inspect", "otel_status", program=CELERY, seconds=60
    )
    assert '"mode": "process"' in status.stdout, status.stdout + status.stderr
    worker.stop()
    (killed,) = runs(collector.wait_for(lambda spans: bool(runs(spans)), 10))
    assert killed.attributes["error.type"].endswith("WorkerLostError")


@pytest.mark.usefixtures("tree")
def test_each_way_of_starting_celery_is_traced(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """``multi``, beat, and a program that starts a worker itself."""
    producer = Producer(broker)
    launcher.run(
        "multi", "start", "one", "-A", "plain", "-c1",
        f"--pidfile={launcher.folder}/%n.pid", f"--logfile={launcher.folder}/%n.log",
        program=CELERY,
    )  # fmt: skip
    run_some(producer, 5, "plain.noop")
    stopped = launcher.run(
        "multi", "stopwait", "one", f"--pidfile={launcher.folder}/%n.pid",
        f"--logfile={launcher.folder}/%n.log", program=CELERY,
    )  # fmt: skip
    assert stopped.returncode == 0, stopped.stderr
    assert_each_run_once(collector, producer)
    manager = launcher.start(
        str(APPS / "plain.py"), "celery", "worker", "-c1", "-l", "INFO", program=PYTHON
    ).wait_until_ready()
    beat = launcher.start("-A", "plain", "beat", "-l", "INFO", program=CELERY)

    def ticks() -> bool:
        ids = {s.span_id for s in collector.spans if s.service == "shop-beat"}
        return any(span.parent_id in ids for span in runs(collector.spans))

    wait_until(ticks, 30, "a run below beat's publish")
    beat.stop()
    manager.stop()
    assert "worker, service 'shop-worker'" in manager.output


def test_what_celery_does_not_trace_stays_as_it_is(
    tree: Path, launcher: Launcher, child_environ: dict[str, str]
) -> None:
    """Commands that neither run nor publish, and programs that are not Celery's."""
    for arguments in (["--version"], ["--help"], ["report"], ["multi", "names", "a"]):
        with_tree = launcher.run(*arguments, program=CELERY)
        plain = launcher.run(*arguments, program=CELERY, PYTHONPATH=str(APPS))
        assert with_tree.returncode == plain.returncode == 0
        assert with_tree.stdout == plain.stdout
        assert with_tree.stderr == plain.stderr
    asked = "import sys; print([n for n in sys.modules if 'otel' in n], sys.path)"
    for options in ([], ["-I"], ["-E"], ["-S"]):
        found = [
            launcher.run(*options, "-c", asked, program=PYTHON, PYTHONPATH=path).stdout
            for path in (child_environ["PYTHONPATH"], str(APPS))
        ]
        left = f"'{tree}', " if options == ["-S"] else ""  # nothing of ours runs then
        assert found[0].replace(left, "") == found[1]
    isolated = launcher.run(
        "-I", "-m", "celery", "-A", "plain", "--version", program=PYTHON
    )
    assert isolated.stderr == ""


def same(
    launcher: Launcher, child_environ: dict[str, str], *words: str, **environ: str
) -> None:
    """A command says and does the same with the tree and without."""
    program, *rest = words
    found = [
        launcher.run(*rest, program=Path(program), PYTHONPATH=path, **environ)
        for path in (child_environ["PYTHONPATH"], str(APPS))
    ]
    said = [
        [line for line in each.stderr.splitlines() if "otel-celery: 0." not in line]
        for each in found
    ]
    assert found[0].returncode == found[1].returncode
    assert (found[0].stdout, said[0]) == (found[1].stdout, said[1])


@pytest.mark.usefixtures("tree")
def test_mistakes_are_answered_as_by_celery(
    launcher: Launcher, child_environ: dict[str, str]
) -> None:
    for words in (["worker", "--bogus"], ["bogus"], ["call"]):
        same(launcher, child_environ, str(CELERY), "-A", "plain", *words)
    celery = launcher.folder / "celery.py"  # a project's own
    celery.write_text("print('mine', __name__)")
    same(launcher, child_environ, str(PYTHON), "-m", "celery", "worker")
    celery.unlink()
    same(
        launcher, child_environ, str(PYTHON), "-mcelery", "-A", "plain", "worker", "-x"
    )


@pytest.mark.usefixtures("tree")
def test_what_installs_packages_or_is_no_program_of_ours_is_left_alone(
    launcher: Launcher, child_environ: dict[str, str]
) -> None:
    """Where every Python program is traced, too."""
    asks = {"OTEL_CELERY_INJECT": "python"}
    same(launcher, child_environ, str(IMAGE / "bin" / "pip3"), "freeze", **asks)
    # The Python of which the image's environment is made has no Celery.
    same(
        launcher, child_environ, str(PYTHON.resolve()), "-c", "print('secret')", **asks
    )
    version = launcher.run("--version", program=SCRIPT, **asks)
    assert version.stderr == ""  # of an image that has otel-celery itself


def test_a_restart_by_sighup_goes_on_with_the_tree_and_without(
    copied: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(launcher, PYTHONPATH=f"{copied}:{APPS}")
    producer = Producer(broker)
    run_some(producer, 3, "plain.noop")
    worker.popen.send_signal(signal.SIGHUP)
    worker.wait_for_output(" ready.", 30, count=2)
    run_some(producer, 3, "plain.noop")
    collector.wait_for(lambda spans: len(runs(spans)) == 6, 15)
    shutil.rmtree(copied)
    worker.popen.send_signal(signal.SIGHUP)
    worker.wait_for_output(" ready.", 30, count=3)
    producer.send("plain.noop").get(timeout=20)
    worker.stop()
    assert worker.popen.returncode == 0


def test_any_python_can_read_the_first_file() -> None:
    """Those that have no part in the tree, too: 2.7 takes what 3.4 takes of it."""
    source = Path(at_start.__file__).read_text()
    ast.parse(source, feature_version=(3, 4))
    assert "__future__" not in source
    assert 'f"' not in source


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_web_process_is_traced_where_that_is_asked(
    tree: Path,
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    server: str,
) -> None:
    """One trace of request, publish and run; nothing of gRPC in the web process."""
    port = free_port()
    words = {
        "gunicorn": [
            "gunicorn",
            "-w",
            "2",
            "-b",
            f"127.0.0.1:{port}",
            "plain_web:wsgi",
        ],
        "uvicorn": ["uvicorn", "--port", str(port), "plain_web:asgi"],
    }[server]
    path = [str(tree), str(APPS), str(IMAGE / "with-fastapi")]
    web = launcher.start(
        *words[1:], program=IMAGE / "bin" / words[0],
        PYTHONPATH=os.pathsep.join(path if server == "uvicorn" else path[:2]),
        OTEL_CELERY_INJECT="python",
    )  # fmt: skip
    wait_until(lambda: is_open(port), 20, "the server listens")
    worker = start(launcher)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/order", timeout=20) as answer:
        assert answer.read().decode().strip('"') == "[]"
    wait_until(lambda: runs(collector.spans), 20, "the run")
    worker.stop()
    web.stop()
    by_id = {span.span_id: span for span in collector.spans}
    (run,) = runs(collector.spans)
    publish = by_id[run.parent_id]
    request = by_id[publish.parent_id]
    assert publish.kind == "PRODUCER"
    assert request.kind == "SERVER"
    assert request.service == publish.service != run.service
    assert broker  # which both share


def test_the_layout_and_the_variables_of_the_operator(
    copied: Path, launcher: Launcher, broker: str
) -> None:
    """As its ``internal/instrumentation/python.go`` sets them, PYTHONPATH of the pod between."""
    mount = launcher.folder / "otel-auto-instrumentation-python"
    subprocess.run(["cp", "-r", f"{copied}/.", mount], check=True)
    first = mount / "opentelemetry" / "instrumentation" / "auto_instrumentation"
    store = Receiver()
    with http_receiver(store) as url:
        worker = start(
            launcher,
            PYTHONPATH=f"{first}:{APPS}:{mount}",
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_LOGS_EXPORTER="none",
        )
        producer = Producer(broker)
        run_some(producer, 5, "plain.noop")
        worker.stop()
        assert_each_run_once(store, producer)
        assert store.points


def test_the_example_is_one_trace(
    tree: Path, launcher: Launcher, collector: Receiver
) -> None:
    """Request, publish, run, retry, its run and the database; all of it by the environment."""
    port = free_port()
    environ = {
        "PYTHONPATH": f"{tree}:{EXAMPLE}:{IMAGE / 'with-fastapi'}",
        "SHOP_DATABASE": f"sqlite:///{launcher.folder}/shop.db",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "sqlite3",  # SQLAlchemy tells
    }
    web = launcher.start(
        "shop.web:app", "--port", str(port), program=IMAGE / "bin" / "uvicorn",
        OTEL_CELERY_INJECT="python", **environ,
    )  # fmt: skip
    worker = launcher.worker(app="shop.tasks", program=CELERY, **environ)
    wait_until(lambda: is_open(port), 20, "the server listens")
    order = urllib.request.Request(
        f"http://127.0.0.1:{port}/orders/book", b"", {"X-Tenant": "acme"}
    )
    with urllib.request.urlopen(order, timeout=20) as answer:
        assert answer.status == 200
    collector.wait_for(lambda spans: any("INSERT" in s.name for s in spans), 20)
    worker.stop()
    web.stop()
    (insert,) = [span for span in collector.spans if "INSERT" in span.name]
    by_id = {span.span_id: span for span in collector.spans}
    span, kinds = insert, []
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        if span.kind in ("CONSUMER", "PRODUCER", "SERVER"):
            kinds.append(span.kind)
    assert kinds == ["CONSUMER", "PRODUCER", "CONSUMER", "PRODUCER", "SERVER"]
    assert not span.parent_id


# What an application brings itself.


def bring(tree: Path, *folders: str) -> str:
    path = [str(tree), str(APPS), *(str(IMAGE / each) for each in folders)]
    return os.pathsep.join(path)


@pytest.mark.parametrize(
    ("folder", "api", "sdk"),
    [
        ("with-lowest-sdk", "1.30.0", "1.30.0"),  # the application's
        ("with-old-api", None, None),  # the tree's: the newer of both APIs
        ("with-fastapi", None, None),
    ],
)
def test_an_sdk_of_the_application_is_used(
    tree: Path,
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    folder: str,
    api: str | None,
    sdk: str | None,
) -> None:
    worker = start(launcher, PYTHONPATH=bring(tree, folder))
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    producer.send("plain.releases")
    producer.wait_for_results()
    found = producer.results[-1].get()
    worker.stop()
    assert_each_run_once(collector, producer)
    if sdk is not None:
        assert found == [api, sdk]
    assert len(worker.own_lines) == 1, worker.own_lines


def test_an_sdk_that_is_too_old_leaves_the_worker_as_it_is(
    tree: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(launcher, PYTHONPATH=bring(tree, "with-old-sdk"))
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    worker.stop()
    assert worker.popen.returncode == 0
    (line,) = worker.own_lines
    assert "opentelemetry-api is 1.20.0: expected 1.30 or later" in line
    assert not collector.spans


# What does not fit.


def another_python(tree: Path) -> None:
    (tree / HERE).rename(tree / "python3.99")


def another_c_library(tree: Path) -> None:
    (exporter,) = (tree / HERE).glob("exporter-*")
    exporter.rename(exporter.with_name("exporter-musl-s390x"))


def damaged(tree: Path) -> None:
    (tree / HERE / "launcher" / "otel_celery_launcher" / "messages.py").write_text("(")
    for compiled in (tree / HERE / "launcher").rglob("*.pyc"):
        compiled.unlink()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (another_python, "python3.99, and this is " + HERE),
        (another_c_library, "has exporter-musl-s390x: expected exporter-"),
        (damaged, "a failure of the injected tree (SyntaxError"),
    ],
)
def test_a_tree_that_does_not_fit_is_one_line(
    copied: Path,
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    spoil: Callable[[Path], None],
    text: str,
) -> None:
    spoil(copied)
    worker = start(launcher, PYTHONPATH=f"{copied}:{APPS}")
    producer = Producer(broker)
    run_some(producer, 3, "plain.noop")
    worker.stop()
    assert worker.popen.returncode == 0
    (line,) = worker.own_lines
    assert text in line
    assert not collector.spans


def test_a_tree_works_read_only_elsewhere_and_for_another_user(
    copied: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """And the application's own ``sitecustomize`` still runs."""
    for path in (copied, *copied.rglob("*")):
        mode = path.stat().st_mode
        assert mode & 0o004, path
        path.chmod(mode & ~0o222)
    site = launcher.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import os; os.environ['OWN_SITE'] = 'yes'")
    for folder in (launcher.folder, *launcher.folder.parents[:3]):
        folder.chmod(0o755)
    os.chown(launcher.folder, 65534, 65534)
    # The Python of a test run may lie below a home directory.
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *caps]
    program = launcher.folder / "as-nobody"
    program.write_text(f'#!/bin/sh\nexec {" ".join(words)} {CELERY} "$@"\n')
    program.chmod(0o755)
    worker = launcher.worker(
        app="plain", program=program, PYTHONPATH=f"{copied}:{APPS}:{site}"
    )
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    assert psutil.Process(worker.popen.pid).uids().real == 65534
    assert psutil.Process(worker.popen.pid).children()[0].environ()["OWN_SITE"] == "yes"
    worker.stop()
    assert_each_run_once(collector, producer)


@pytest.mark.usefixtures("tree")
def test_without_an_exporter_process_what_is_lost_is_counted(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = start(launcher, SHOP_NO_EXECUTABLE="1")
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    worker.stop()
    assert worker.popen.returncode == 0
    assert "no exporter process can be started" in worker.output
    assert "5 spans lost" in worker.output
    assert not collector.spans


# The tree itself.


def test_the_packages_of_a_tree_fit_each_other(made: Path) -> None:
    """And those of the image fit as before."""
    home = made / HERE
    folders = [str(each) for each in home.iterdir() if each.name != "launcher"]
    checks: list[Any] = [
        subprocess.run(
            [PYTHON, "-m", "pip", "check"],
            env={"PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )
        for path in (os.pathsep.join(folders), str(made))
    ]  # fmt: skip
    assert [each.returncode for each in checks] == [0, 0], [
        each.stdout for each in checks
    ]


def test_one_tree_is_for_several_pythons(
    tmp_path: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Of the one that is not here, pip has fetched the wheels."""
    other = "3.12" if HERE != "python3.12" else "3.13"
    done = launcher.run(
        "inject", str(tmp_path / "both"), "--python", HERE[6:], "--python", other,
        "--libc", "glibc", "--libc", "musl", seconds=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    home = tmp_path / "both" / f"python{other}"
    for library in ("glibc", "musl"):
        (folder,) = home.glob(f"exporter-{library}-*")
        number = other.replace(".", "")
        assert list(folder.glob(f"grpc/_cython/*cpython-{number}-*.so"))
    worker = start(launcher, PYTHONPATH=f"{tmp_path / 'both'}:{APPS}")
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    worker.stop()
    assert_each_run_once(collector, producer)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--python", "3.9"], "--python is '3.9': expected one of 3.10"),
        (["--wheels", "."], "pip cannot install the packages of Python"),
    ],
)
def test_a_tree_that_cannot_be_made_leaves_nothing(
    launcher: Launcher, tmp_path: Path, words: list[str], text: str
) -> None:
    done = launcher.run("inject", str(tmp_path / "new"), *words)
    assert done.returncode == 78
    assert text in done.stderr
    assert not list(tmp_path.glob("*new*"))
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, expected in (
        ("full", "is not empty"),
        ("full/file", "cannot be written"),
        ("full/file/below", "cannot be written"),
        ("one:two", "expected one without ':'"),
    ):
        done = launcher.run("inject", str(tmp_path / name))
        assert done.returncode == 78
        assert expected in done.stderr
    process = launcher.start("inject", str(tmp_path / "empty"))
    wait_until(lambda: any((tmp_path / "empty").iterdir()), 20, "it has begun")
    assert process.stop() >= 0
    assert process.popen.returncode == 128 + signal.SIGTERM
    assert not any((tmp_path / "empty").iterdir())


@pytest.mark.timed
def test_a_program_that_is_not_ours_starts_as_fast(
    tree: Path, child_environ: dict[str, str]
) -> None:
    def seconds(path: str) -> float:
        began = time.perf_counter()
        subprocess.run(
            [PYTHON, "-c", "pass"], env=child_environ | {"PYTHONPATH": path}, check=True
        )
        return time.perf_counter() - began

    pairs = [(seconds(f"{tree}:{APPS}"), seconds(str(APPS))) for _ in range(30)]
    with_tree, plain = (min(each) for each in zip(*pairs, strict=True))
    assert with_tree - plain < 0.005
    assert not without_exporters(processes_in(child_environ["HOME"]))
