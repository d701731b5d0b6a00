"""Celery's behaviour is the contract: arguments, output, signals, exit statuses."""

from __future__ import annotations

import re
import signal
import statistics
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher import __version__
from tests.support.harness import CELERY, SCRIPT, Producer, runs, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

UNCHANGED = [
    ["-A", "shop", "report"],
    ["-A", "shop", "inspect", "ping", "--timeout", "0.2"],
    ["-A", "shop", "status", "--timeout", "0.2"],
    ["-A", "shop", "list", "bindings"],
    ["-A", "shop", "purge", "-f"],
    ["-A", "missing", "status"],
    ["-A", "missing", "worker"],
    ["-A", "shop", "worker", "--no-such-option"],
    ["-A", "shop", "worker", "--help"],
    ["-A", "shop", "call", "--help"],
    ["-A", "shop", "no-such-command"],
    ["worker", "-A", "shop"],
    ["multi", "names", "2"],
    ["upgrade", "settings"],
]


def normalised(text: str) -> str:
    """Leave out what differs between two runs of Celery itself."""
    text = re.sub(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}", "X", text)
    text = re.sub(r"--executable=\S+ ?", "", text)
    text = text.replace("/bin/python3 ", "/bin/python ")
    lines = [line for line in text.splitlines() if not line.startswith("otel-celery: ")]
    return "\n".join(lines).replace("otel-celery", "celery")


@pytest.mark.parametrize("arguments", UNCHANGED, ids=" ".join)
def test_output_and_exit_status_are_those_of_celery(
    launcher: Launcher, arguments: list[str]
) -> None:
    """README: same arguments, same output, same exit status."""
    plain = launcher.run(*arguments, program=CELERY)
    ours = launcher.run(*arguments)
    assert ours.returncode == plain.returncode
    assert normalised(ours.stdout) == normalised(plain.stdout)
    assert normalised(ours.stderr) == normalised(plain.stderr)


def test_call_prints_the_task_id_alone(launcher: Launcher, collector: Receiver) -> None:
    """`$(otel-celery -A app call …)` is what it was, and the publish is exported."""
    result = launcher.run("-A", "shop", "call", "shop.noop")
    assert result.returncode == 0
    assert re.fullmatch(r"[0-9a-f-]{36}\n", result.stdout)
    assert [span.kind for span in collector.spans] == ["PRODUCER"]
    assert collector.spans[0].service == "shop-producer"


def test_version_shows_both(launcher: Launcher) -> None:
    plain = launcher.run("--version", program=CELERY).stdout
    found = launcher.run("--version")
    ours, _, rest = found.stdout.partition("\n")
    assert rest == plain
    python = ".".join(map(str, sys.version_info[:3]))
    sdk = version("opentelemetry-sdk")
    assert ours == f"otel-celery {__version__} (OpenTelemetry {sdk}, Python {python})"
    assert found.returncode == 0


def test_help_shows_both(launcher: Launcher) -> None:
    found = launcher.run("--help").stdout
    assert "--env-file FILE" in found
    assert "Celery command entrypoint." in found


def test_module_form_is_the_same_command(launcher: Launcher) -> None:
    """`python -m otel_celery_launcher` is `otel-celery`."""
    from pathlib import Path

    found = launcher.run(
        "-m", "otel_celery_launcher", "--version", program=Path(sys.executable)
    )
    assert found.stdout == launcher.run("--version").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_names_our_command(launcher: Launcher, shell: str) -> None:
    found = launcher.run(_OTEL_CELERY_COMPLETE=f"{shell}_source")
    assert found.returncode == 0
    assert "_OTEL_CELERY_COMPLETE" in found.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("otel-celery -A shop wor", "plain,worker\n"),
        ("otel-celery dem", "plain,demo\n"),
        ("otel-celery --env", "plain,--env-file\n"),
        ("otel-celery -A shop worker --max-mem", "plain,--max-memory-per-child\n"),
    ],
)
def test_shell_completion_completes_commands(
    launcher: Launcher, words: str, answer: str
) -> None:
    """Celery's commands and options, and our own."""
    found = launcher.run(
        _OTEL_CELERY_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert found.stdout == answer


def test_an_application_may_be_called_as_a_command_is(launcher: Launcher) -> None:
    code = "print('runs')"
    found = launcher.run("-A", "exec", "exec", "--", sys.executable, "-c", code)
    assert found.stdout == "runs\n"
    words = ["--port", "0", "--http-port", "0", "--html", "no/such/page.html"]
    found = launcher.run("-A", "tail", "tail", *words)
    assert "otel-celery: --html is 'no/such/page.html': " in found.stderr
    assert found.returncode == 78


@pytest.mark.parametrize("has_traceback", [False, True])
def test_a_bug_of_ours_leaves_plain_celery_and_one_line(
    launcher: Launcher, collector: Receiver, has_traceback: bool
) -> None:
    """The line has the file, line and function that raised; the rest on request."""
    (launcher.folder / "broken.py").write_text(
        "from otel_celery_launcher.telemetry import setup\n"
        "def start(*_):\n"
        "    raise KeyError('two\\nlines')\n"
        "setup.start = start\n"
        "from shop import app\n"
    )
    program = launcher.folder / "program"
    program.write_text(
        f"#!{sys.executable}\nimport broken\n"
        "from otel_celery_launcher.cli import run\nrun()\n"
    )
    program.chmod(0o755)
    level = "debug" if has_traceback else "info"
    found = launcher.run(
        "-A", "shop", "call", "shop.noop", program=program, OTEL_LOG_LEVEL=level
    )
    assert found.returncode == 0
    assert len(found.stdout.strip()) == 36
    line, *rest = found.stderr.splitlines()
    assert line == (
        f"otel-celery: a bug in otel-celery {__version__}: Celery runs untraced. Please"
        r" report it: KeyError: 'two\nlines'"
        f" ({launcher.folder}/broken.py:3 in start)"
    )
    assert bool(rest) is has_traceback
    assert not has_traceback or rest[0] == "Traceback (most recent call last):"
    assert not collector.spans


STOPS = {
    "TERM": ([signal.SIGTERM], {}),
    "INT once": ([signal.SIGINT], {}),
    "INT twice": ([signal.SIGINT, signal.SIGINT], {}),
    "QUIT": ([signal.SIGQUIT], {}),
    "TERM remapped": ([signal.SIGTERM], {"REMAP_SIGTERM": "SIGQUIT"}),
}


@pytest.mark.timed
@pytest.mark.parametrize("kind", STOPS)
def test_signals_end_a_busy_worker_as_celery_does(
    launcher: Launcher, broker: str, kind: str
) -> None:
    """Same exit status, same words, with a task running."""
    numbers, environ = STOPS[kind]

    def end(program: Path) -> tuple[int, list[str], float]:
        worker = launcher.worker("-c1", program=program, **environ)
        producer = Producer(broker)
        producer.send("shop.nap", 2)
        worker.wait_for_output("received")
        producer.wait_until_acknowledged()
        start = time.monotonic()
        for number in numbers:
            worker.popen.send_signal(number)
            # Said last by Celery's handler: a second signal in the middle of it may be
            # forgotten, also without us.
            worker.wait_for_output(" shutdown (MainProcess)")
        status = worker.wait()
        words = [line for line in worker.output.splitlines() if "worker: " in line]
        producer.app.control.purge()
        return status, words, time.monotonic() - start

    plain = end(CELERY)
    ours = end(SCRIPT)
    assert ours[:2] == plain[:2]
    assert ours[2] <= plain[2] + 5


def test_sdk_disabled_is_plain_celery(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """OTEL_SDK_DISABLED=true: not a line, not a span, no OpenTelemetry imported."""
    worker = launcher.worker(OTEL_SDK_DISABLED="true")
    producer = Producer(broker)
    producer.send("shop.noop")
    producer.wait_for_results()
    worker.stop()
    assert "otel-celery: " not in worker.output
    assert not collector.spans


LOOK = """#!{python}
import atexit, sys
names = ('opentelemetry', 'grpc', 'dotenv')
atexit.register(lambda: print(sorted(m for m in sys.modules if m.split('.')[0] in names)))
from {module} import {function}
sys.argv[0] = 'otel-celery'
{function}()
"""


def test_commands_without_telemetry_import_nothing_of_it(launcher: Launcher) -> None:
    """Nothing that plain Celery does not import: flower's plugin brings some along."""
    imported = []
    for module, function in (
        ("celery.__main__", "main"),
        ("otel_celery_launcher.cli", "run"),
    ):
        program = launcher.folder / "look"
        program.write_text(
            LOOK.format(python=sys.executable, module=module, function=function)
        )
        program.chmod(0o755)
        found = launcher.run("multi", "names", "2", program=program)
        imported.append(found.stdout.splitlines()[-1])
    assert imported[0].startswith("[")
    assert imported[0] == imported[1]


@pytest.mark.timed
def test_status_costs_less_than_50_ms_over_celery(launcher: Launcher) -> None:
    """README: commands without telemetry cost < 50 ms."""

    def seconds(program: Path) -> float:
        start = time.monotonic()
        launcher.run("multi", "names", "1", program=program)
        return time.monotonic() - start

    pairs = [(seconds(CELERY), seconds(SCRIPT)) for _ in range(9)]
    added = statistics.median(ours - plain for plain, ours in pairs)
    assert added < 0.05


def test_env_files_fill_in_and_the_environment_wins(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """.env.<role> wins over .env, the environment over both; only OTEL_* is taken."""
    (launcher.folder / ".env").write_text(
        "OTEL_RESOURCE_ATTRIBUTES=team=a,tier=env\nSHOP_BROKER=redis://nowhere:1\n"
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9\n"
    )
    (launcher.folder / ".env.worker").write_text("OTEL_RESOURCE_ATTRIBUTES=team=b\n")
    worker = launcher.worker("-P", "solo")
    Producer(broker).send("shop.noop")
    (span,) = collector.wait_for(bool, 10)
    worker.stop()
    assert span.resource["team"] == "b"
    assert "tier" not in span.resource


def test_env_file_option_is_loaded_whole(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    (launcher.folder / "prod.env").write_text(f"SHOP_BROKER={broker}\n")
    del launcher.environ["SHOP_BROKER"]
    found = launcher.run("--env-file", "prod.env", "-A", "shop", "call", "shop.noop")
    assert found.returncode == 0, found.stderr
    assert len(collector.spans) == 1


def test_missing_env_file_is_status_78(launcher: Launcher) -> None:
    found = launcher.run("--env-file", "none.env", "-A", "shop", "status")
    assert found.returncode == 78
    assert found.stderr.startswith(
        "otel-celery: --env-file is 'none.env': expected an existing file; create it"
    )


def test_env_file_without_value_is_status_78(launcher: Launcher) -> None:
    found = launcher.run("--env-file")
    assert found.returncode == 78
    assert found.stderr == (
        "otel-celery: --env-file has no value: expected the path of a file; write it"
        " before Celery's options: otel-celery --env-file prod.env -A app worker\n"
    )


def test_hangup_restarts_with_telemetry_and_reads_env_files_anew(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SIGHUP re-executes Celery: still traced, with what the files say then."""
    env_file = launcher.folder / "prod.env"
    env_file.write_text("OTEL_RESOURCE_ATTRIBUTES=release=1\n")
    worker = launcher.start(
        "--env-file", "prod.env", "-A", "shop", "worker", "-l", "INFO", "-P", "solo"
    ).wait_until_ready()
    env_file.write_text("OTEL_RESOURCE_ATTRIBUTES=release=2\n")
    worker.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: worker.output.count(" ready.") == 2, 20, "the restart is ready")
    Producer(broker).send("shop.noop")
    (span,) = collector.wait_for(bool, 10)
    worker.stop()
    assert span.resource["release"] == "2"
    assert runs([span])


def test_a_misspelt_command_of_ours_is_named_after_celerys_own_words(
    launcher: Launcher,
) -> None:
    plain = launcher.run("docter", program=CELERY)
    found = launcher.run("docter")
    assert found.returncode == plain.returncode == 2
    assert found.stdout == plain.stdout
    assert found.stderr == plain.stderr.replace("celery", "otel-celery") + (
        "otel-celery: 'docter' is no command; did you mean `otel-celery doctor`?\n"
    )


def test_a_worker_without_an_application_is_told(launcher: Launcher) -> None:
    """But not where Celery's own default configuration is there."""
    line = "no application is given: Celery starts without your tasks and your broker;"
    options = ("worker", "-P", "solo", "-l", "INFO")
    worker = launcher.start(*options)
    worker.wait_for_output(f"{line} type otel-celery -A <app> worker")
    worker.stop()
    worker = launcher.start(*options, CELERY_BROKER_URL="memory://")
    worker.wait_until_ready()
    worker.stop()
    assert line not in worker.output
    (launcher.folder / "celeryconfig.py").write_text("broker_url = 'memory://'\n")
    worker = launcher.start(*options)
    worker.wait_until_ready()
    worker.stop()
    assert line not in worker.output
