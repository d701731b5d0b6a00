"""README: a bad value never stops a worker. Every variable at once, on the real command."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.support.documented import undocumented
from tests.support.harness import SCRIPT, Launcher, Producer, run_some, wait_until
from tests.support.hostile_values import COMMON, PRIVATE_KEY, SECRET, environ
from tests.support.servers import APPS

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver

PROGRAM = str(APPS / "program.py")


def assert_is_as_ever(output: str, shown: str) -> None:
    """Nothing but lines of ours, each of which is documented, and no secret."""
    assert "Traceback" not in output, shown
    assert SECRET not in output, shown
    assert undocumented(output) == []
    assert "a bug in otel-celery" not in output, shown


def test_a_command_starts_with_any_values(launcher: Launcher) -> None:
    """A start takes a second: half of what each variable may have."""

    def call(number: int) -> subprocess.CompletedProcess[str]:
        given = environ(number) | {"OTEL_CELERY_SHUTDOWN_SECONDS": "0"}
        return launcher.run(
            "-A", "shop", "call", "shop.noop", SHOP_BROKER="memory://", **given
        )

    numbers = range(0, len(COMMON), 2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(call, numbers))
    for number, done in zip(numbers, found, strict=True):
        shown = f"environ({number}) ends with {done.returncode}: {done.stderr[-3000:]}"
        assert done.returncode == 0, shown
        assert len(done.stdout.strip()) == 36, shown
        assert_is_as_ever(done.stderr, shown)
        strange = [
            line
            for line in done.stderr.splitlines()
            if not line.startswith("otel-celery: ")
        ]
        assert strange == [], shown


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_worker_starts_with_any_values_and_runs_tasks(
    launcher: Launcher, broker: str, number: int
) -> None:
    given = environ(number) | {"OTEL_CELERY_SHUTDOWN_SECONDS": "0"}
    worker = launcher.worker(**given)
    run_some(Producer(broker), 10)
    worker.stop()
    assert worker.popen.returncode == 0
    assert_is_as_ever(worker.output, worker.output)


@pytest.mark.parametrize("number", [0, 2])
def test_a_program_starts_with_any_values(launcher: Launcher, number: int) -> None:
    """Under exec, and where the program calls setup()."""
    given = environ(number) | {"OTEL_CELERY_SHUTDOWN_SECONDS": "0"}
    code = "import otel_celery_launcher as o; o.setup('web'); print('runs')"
    for words in (["exec", "--", sys.executable, "-c", "print('runs')"], ["-c", code]):
        program = SCRIPT if words[0] == "exec" else SCRIPT.with_name("python")
        done = launcher.run(*words, program=program, **given)
        assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
        assert_is_as_ever(done.stderr, done.stderr)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_CELERY_SERVICE_NAME", "{role.x}"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", PRIVATE_KEY),
        ("OTEL_SDK_DISABLED", "1"),
    ],
)
def test_strict_is_status_78_everywhere(
    launcher: Launcher, name: str, value: str
) -> None:
    given = {name: value, "OTEL_CELERY_STRICT": "true"}
    for words in (["-A", "shop", "worker"], ["exec", "--", sys.executable, PROGRAM]):
        done = launcher.run(*words, **given)
        assert done.returncode == 78, done.stderr
        assert done.stderr.startswith(f"otel-celery: {name} is ")
        assert SECRET not in done.stderr


@pytest.mark.parametrize("has_key", [True, False])
def test_half_of_a_certificates_pair_does_not_end_the_process(
    launcher: Launcher, collector: Receiver, has_key: bool
) -> None:
    """grpc's core ends it by SIGABRT where the collector's authority is given, too."""
    authority = launcher.folder / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    file = launcher.folder / "half.pem"
    file.write_text(PRIVATE_KEY)
    name = "CLIENT_KEY" if has_key else "CLIENT_CERTIFICATE"
    done = launcher.run(
        "-A", "shop", "call", "shop.noop",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint.replace("http:", "https:"),
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority),
        **{f"OTEL_EXPORTER_OTLP_{name}": str(file)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        f"OTEL_EXPORTER_OTLP_{name} is set (value not shown): expected" in done.stderr
    )
    assert SECRET not in done.stderr


@pytest.mark.parametrize("word", ["0", "no", "off", "False", "1", "yes", "TRUE"])
def test_only_true_disables(launcher: Launcher, collector: Receiver, word: str) -> None:
    """https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#boolean"""
    done = launcher.run("-A", "shop", "call", "shop.noop", OTEL_SDK_DISABLED=word)
    assert done.returncode == 0
    is_off = word.lower() == "true"
    assert len(collector.spans) == (0 if is_off else 1)
    lines = done.stderr.splitlines()
    if word.lower() in ("true", "false"):
        assert lines == []
    else:
        assert lines == [
            f"otel-celery: OTEL_SDK_DISABLED is {word!r}: expected true or false; using"
            " false"
        ]


def test_a_private_key_is_shown_nowhere(launcher: Launcher, broker: str) -> None:
    """In the place of its path, of a name, or of the endpoint: start, log, doctor."""
    given = {
        name: PRIVATE_KEY
        for name in environ(0)
        if name not in ("OTEL_CELERY_ENV_FILE", "OTEL_SDK_DISABLED")
    }
    worker = launcher.worker("-n", "w@x", **given)
    run_some(Producer(broker), 1)
    doctor = launcher.run("doctor", "-A", "shop", "--wait", "1", **given)
    worker.stop()
    assert "OTEL_EXPORTER_OTLP_CLIENT_KEY is set (value not shown)" in worker.output
    assert "OTEL_EXPORTER_OTLP_CLIENT_KEY is set (value not shown)" in doctor.stdout
    for output in (worker.output, doctor.stdout, doctor.stderr):
        assert SECRET not in output
        assert "Traceback" not in output


def test_lines_stay_out_of_standard_output_when_standard_error_is_closed(
    launcher: Launcher,
) -> None:
    program = launcher.folder / "closed"
    program.write_text(f'#!/bin/sh\nexec {SCRIPT} "$@" 2>&-\n')
    program.chmod(0o755)
    done = launcher.run(
        "-A", "shop", "call", "shop.noop", program=program, OTEL_SDK_DISABLED="perhaps"
    )
    assert done.returncode == 0
    assert len(done.stdout.strip()) == 36


def test_a_reload_after_a_bad_value_starts_too(launcher: Launcher) -> None:
    """SIGHUP executes the worker anew in the environment that was corrected."""
    worker = launcher.worker("-P", "solo", **environ(2))
    worker.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: worker.output.count(" ready.") == 2, 20, "the restart is ready")
    worker.stop()
    assert_is_as_ever(worker.output, worker.output)
