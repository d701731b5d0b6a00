"""What an installation brings, and that importing starts nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_celery_launcher
from tests.support.harness import Producer, assert_each_run_once, run_some

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

ROOT = Path(__file__).parent.parent.parent


def python(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_plain_install_ends_with_the_newest_consistent_opentelemetry() -> None:
    """A resolver must not settle for a release that is years old."""
    resolve = ("-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed")
    report = json.loads(python(*resolve, "--report", "-", str(ROOT)))
    found = {
        item["metadata"]["name"]: item["metadata"]["version"]
        for item in report["install"]
    }
    newest = python("-m", "pip", "index", "versions", "opentelemetry-sdk")
    major_minor = re.search(r"\((\d+\.\d+)", newest)
    assert major_minor is not None
    for name in ("api", "sdk", "proto", "exporter-otlp-proto-grpc"):
        assert found[f"opentelemetry-{name}"].startswith(f"{major_minor[1]}.")
    beta = found["opentelemetry-semantic-conventions"]
    for name in ("instrumentation", "instrumentation-celery"):
        assert found[f"opentelemetry-{name}"] == beta
    assert found["grpcio"] != "1.78.1"


def test_no_entry_point_takes_over_other_processes() -> None:
    """A distro or configurator would change every process of the environment."""
    for group in ("opentelemetry_distro", "opentelemetry_configurator"):
        for entry_point in entry_points(group=group):
            assert not entry_point.value.startswith("otel_celery_launcher")


def test_importing_the_package_imports_nothing_of_others() -> None:
    loaded = python(
        "-c",
        "import sys, otel_celery_launcher, otel_celery_launcher.cli;"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('celery', 'opentelemetry', 'grpc', 'click', 'dotenv')])",
    )
    assert loaded == "[]\n"


def test_version_is_that_of_the_installed_package_and_the_changelog() -> None:
    assert version("otel-celery-launcher") == otel_celery_launcher.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{otel_celery_launcher.__version__}]" in changelog


def test_modules_stay_small() -> None:
    """A module is one noun; at 450 lines look for the two things in it."""
    for path in (ROOT / "otel_celery_launcher").rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 450, path


def test_functions_stay_short() -> None:
    """Forty lines, docstring and all: a function is one step of a story."""
    for path in (ROOT / "otel_celery_launcher").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                assert length <= 40, f"{path}: {node.name} has {length} lines"


# Files that write down when something was: on spans, in headers.
NOTING_TIMES = {
    "compat/lazy_span.py",
    "compat/quick_spans.py",
    "exporter_process/server.py",
    "ipc/ring.py",  # whether the owner of a file is long dead; the lock decides
    "ipc/ring_head.py",
    "logs/events.py",
    "doctor/further_signals.py",
    "launch/healthcheck.py",  # the age of a file, which is touched again within 2 s
    "metrics/health.py",
    "metrics/instruments.py",
    "metrics/observed.py",
    "metrics/page.py",
    "metrics/sender.py",
    "receiver/memory.py",
    "tasks/killed.py",
    "tasks/metrics.py",
    "tasks/publish.py",
    "tasks/received.py",
    "tail/web/views.py",  # how long ago something came
    "tasks/waits.py",
    "tasks/worker_metrics.py",
}


def test_no_wait_depends_on_the_wall_clock() -> None:
    """A step of the clock neither shortens nor prolongs anything."""
    package = ROOT / "otel_celery_launcher"
    for path in package.rglob("*.py"):
        if str(path.relative_to(package)) not in NOTING_TIMES:
            assert not re.search(r"time\.time(_ns)?\(", path.read_text()), path


DECOY = """
raise SystemExit("this is not the image's Celery")
"""


@pytest.mark.parametrize("how", ["worker", "exec"])
def test_a_folder_of_ours_on_the_path_replaces_nothing_of_the_image(
    launcher: Launcher, collector: Receiver, broker: str, how: str
) -> None:
    """`pip install --target` brings a Celery; the application has its own."""
    folder = launcher.folder / "target"
    shutil.copytree(
        Path(otel_celery_launcher.__file__).parent, folder / "otel_celery_launcher"
    )
    (folder / "celery").mkdir()
    (folder / "celery" / "__init__.py").write_text(DECOY)
    path = os.pathsep.join([str(folder), launcher.environ["PYTHONPATH"]])
    ours = ["-m", "otel_celery_launcher"]
    words = ["-A", "shop", "worker", "-l", "INFO", "-c", "1"]
    if how == "exec":
        program = [sys.executable, "-c", "from celery.__main__ import main; main()"]
        words = ["exec", "--role", "worker", "--", *program, *words]
    worker = launcher.start(
        *ours, *words, program=Path(sys.executable), PYTHONPATH=path
    )
    worker.wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 3)
    worker.stop()
    assert_each_run_once(collector, producer)
