"""A bad value of every variable we read: one line, tasks run; strict: 78."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.bad_values import BAD_VALUES
from tests.support.harness import Producer

if TYPE_CHECKING:
    from tests.support.harness import Launcher


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_is_one_line_and_celery_goes_on(
    launcher: Launcher, name: str
) -> None:
    """README: a bad value never stops a worker."""
    environ = {name: BAD_VALUES[name][0], "OTEL_SERVICE_NAME": "shop-producer"}
    if name == "OTEL_TRACES_SAMPLER_ARG":
        environ["OTEL_TRACES_SAMPLER"] = "traceidratio"
    if name.endswith("ENDPOINT"):  # what is used instead is nobody's in a test
        environ["OTEL_CELERY_SHUTDOWN_SECONDS"] = "0"
    found = launcher.run("-A", "shop", "call", "shop.noop", **environ)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.strip()) == 36
    lines = [line for line in found.stderr.splitlines() if "spans" not in line]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith(f"otel-celery: {name} is ")


def test_worker_with_every_value_bad_runs_tasks(
    launcher: Launcher, broker: str
) -> None:
    """All at once, but the one that turns tracing off."""
    environ = {name: value for name, (value, _) in BAD_VALUES.items()}
    del environ["OTEL_SDK_DISABLED"]
    environ["OTEL_TRACES_SAMPLER"] = "traceidratio"
    worker = launcher.worker(**environ)
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    lines = [line for line in worker.own_lines if ": expected " in line]
    assert len(lines) == len(environ) - 1
    assert "Traceback" not in worker.output


def test_strict_turns_a_bad_value_into_status_78(launcher: Launcher) -> None:
    found = launcher.run(
        "-A", "shop", "worker",
        OTEL_CELERY_STRICT="true", OTEL_PROPAGATORS="bagage",
    )  # fmt: skip
    assert found.returncode == 78
    assert found.stderr == (
        "otel-celery: OTEL_PROPAGATORS is 'bagage': expected installed propagators;"
        " 'bagage' is not installed or misspelt; using tracecontext; correct it, or"
        " unset OTEL_CELERY_STRICT to start without\n"
    )
