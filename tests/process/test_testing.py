"""The plugin for pytest, with the files of docs/testing.md in a pytest of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.documented import named_blocks

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

PAGE = (Path(__file__).parent.parent.parent / "docs" / "testing.md").read_text()
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")

# An application that sets telemetry up where it is imported, and two kinds of fixtures.
SETS_UP = """
import otel_celery_launcher
otel_celery_launcher.setup(role="web")
"""


def write_files(launcher: Launcher, **changes: str) -> None:
    """Write the files of the page whose first line is their name."""
    for name, text in named_blocks(PAGE).items():
        text = changes.get(name.partition(".")[0], "{}").replace("{}", text)
        (launcher.folder / name).write_text(text)


def test_the_examples_of_the_page_pass_and_nothing_leaves(
    launcher: Launcher, collector: Receiver
) -> None:
    """Also where the application itself sets up tracing, and a file names a collector."""
    endpoint = launcher.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT")
    (launcher.folder / ".env").write_text(f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}\n")
    write_files(launcher, shop=SETS_UP + "{}")
    done = launcher.run(*PYTEST, program=Path(sys.executable), PYTHONPATH=".")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert not collector.spans
    assert not collector.points


def test_a_variable_that_is_set_wins(launcher: Launcher, collector: Receiver) -> None:
    write_files(launcher)
    environ = {"PYTHONPATH": ".", "OTEL_TRACES_EXPORTER": "otlp"}
    done = launcher.run(*PYTEST, program=Path(sys.executable), **environ)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "run/shop.order" in {span.name for span in collector.spans}


def test_without_tracing_the_fixture_says_why(launcher: Launcher) -> None:
    write_files(launcher)
    environ = {"PYTHONPATH": ".", "OTEL_SDK_DISABLED": "true"}
    done = launcher.run(*PYTEST, program=Path(sys.executable), **environ)
    assert "unset OTEL_SDK_DISABLED" in done.stdout
    assert done.returncode == 1


def test_a_test_run_without_the_plugin_is_not_changed(launcher: Launcher) -> None:
    """It is no entry point: pytest knows it only where it is named."""
    done = launcher.run(*PYTEST, "--trace-config", program=Path(sys.executable))
    assert "otel_celery" not in done.stdout
