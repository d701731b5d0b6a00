"""``otel-celery exec`` and ``setup()``: programs that are not Celery's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.harness import (
    CELERY,
    SCRIPT,
    SPAWN,
    Producer,
    assert_each_run_once,
    exporter_of,
    processes_in,
    run_some,
    wait_until,
)
from tests.support.servers import APPS

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher, Process

PROGRAM = str(APPS / "program.py")


def names(collector: Receiver) -> list[str]:
    return sorted(span.name for span in collector.spans)


def wait_for_names(collector: Receiver, *expected: str) -> None:
    wait_until(
        lambda: names(collector) == sorted(expected), 10, f"{expected} have come"
    )


def run(launcher: Launcher, what: str, **environ: str) -> Process:
    return launcher.start("exec", "--", sys.executable, PROGRAM, what, **environ)


def test_streams_and_status_are_the_programs(
    launcher: Launcher, collector: Receiver
) -> None:
    command = [str(SCRIPT), "exec", "--role", "web", "--", sys.executable, PROGRAM]
    done = subprocess.run(
        [*command, "talks"], env=launcher.environ, cwd=launcher.folder,
        input="hello", capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("HELLO", 7)
    (line,) = done.stderr.splitlines()
    assert "web, service 'shop-web'" in line
    wait_for_names(collector, "work")
    assert collector.spans[0].resource["celery.role"] == "web"


def test_the_program_is_this_very_process_and_dies_of_its_signal(
    launcher: Launcher, collector: Receiver
) -> None:
    """SIGTERM ends a program that handles no signals as ever, its spans are sent."""
    process = run(launcher, "waits")
    wait_until(lambda: str(process.popen.pid) in process.output, 20, "it waits")
    assert not psutil.Process(process.popen.pid).children()
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    wait_for_names(collector, "work")


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_children_of_multiprocessing_are_covered(
    launcher: Launcher, collector: Receiver, how: str
) -> None:
    assert run(launcher, how).wait() == 0
    wait_for_names(collector, "after", "before", "child")
    assert len({span.span_id for span in collector.spans}) == 3


@pytest.mark.parametrize(
    ("what", "expected"),
    [("executes", ("before", "last")), ("reloads", ("last",))],
)
def test_a_program_that_is_started_again_is_covered(
    launcher: Launcher, collector: Receiver, what: str, expected: tuple[str, ...]
) -> None:
    """By execv, as gunicorn; in a child, as a reloader. One start line."""
    process = run(launcher, what)
    assert process.wait() == 0
    wait_for_names(collector, *expected)
    assert len(process.own_lines) == 1


def test_other_python_programs_are_left_alone(launcher: Launcher) -> None:
    process = run(launcher, "others")
    assert process.wait() == 0
    assert process.output.splitlines()[-1] == f"[] {launcher.environ['PYTHONPATH']} []"


def test_forked_servers_share_an_exporter_process_and_lose_nothing(
    launcher: Launcher, collector: Receiver
) -> None:
    """The first process has no spans itself; SIGKILL of the others."""
    process = run(launcher, "serves")
    process.wait_for_output("served", count=2)
    exporter = exporter_of(process)
    children = psutil.Process(process.popen.pid).children()
    assert len(children) == 3
    for child in children:
        if child != exporter:
            child.kill()
    assert process.wait() == 0
    wait_for_names(collector, "before", *["child"] * 40)
    wait_until(lambda: not exporter.is_running(), 8, "the exporter has ended")


def test_a_daemon_outlives_the_process_that_started_it(
    launcher: Launcher, collector: Receiver
) -> None:
    assert run(launcher, "outlived").wait() == 0
    wait_for_names(collector, "daemon")


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (["no-such-program"], 127, "command not found: 'no-such-program'"),
        (["./file"], 126, "'./file' cannot be executed"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_command_that_cannot_run_is_one_line(
    launcher: Launcher, command: list[str], status: int, text: str
) -> None:
    (launcher.folder / "file").write_text("")
    done = launcher.run("exec", *command)
    assert done.returncode == status
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_disabled_is_the_bare_program(launcher: Launcher, collector: Receiver) -> None:
    process = run(launcher, "executes", OTEL_SDK_DISABLED="true")
    assert process.wait() == 0
    assert process.output == ""
    assert not collector.spans


def test_bad_values_are_said_once_and_strict_is_78(launcher: Launcher) -> None:
    bad = {"OTEL_PROPAGATORS": "bagage"}
    process = run(launcher, "reloads", **bad)
    assert process.wait() == 0
    assert sum("OTEL_PROPAGATORS" in line for line in process.own_lines) == 1
    assert run(launcher, "reloads", OTEL_CELERY_STRICT="true", **bad).wait() == 78


def test_the_sitecustomize_that_ours_hides_is_run(
    launcher: Launcher, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("print('theirs')")
    path = f"{folder}{os.pathsep}{launcher.environ['PYTHONPATH']}"
    process = run(launcher, "last", PYTHONPATH=path)
    assert process.wait() == 0
    assert "theirs" in process.output.splitlines()


def test_setup_is_the_same_from_inside(launcher: Launcher, collector: Receiver) -> None:
    """Idempotent: the first role stays, one start line."""
    process = launcher.start(PROGRAM, "sets up", program=sys.executable)
    assert process.wait() == 0
    wait_for_names(collector, "work")
    assert collector.spans[0].service == "shop-producer"
    assert len(process.own_lines) == 1


@pytest.mark.parametrize("pool", ["prefork", "spawn", "threads"])
def test_setup_in_a_worker_of_plain_celery_has_the_same_guarantees(
    launcher: Launcher, collector: Receiver, broker: str, pool: str
) -> None:
    """`celery worker` as it is: each run once, through recycled children."""
    options = SPAWN if pool == "spawn" else ["-P", pool]
    worker = launcher.worker(
        *options, "--max-tasks-per-child", "5", app="sets_up", program=CELERY
    )
    producer = Producer(broker)
    producer.send_many("shop.noop", 20)
    producer.wait_for_results()
    worker.stop()
    assert worker.popen.returncode == 0
    assert_each_run_once(collector, producer)
    assert len(worker.own_lines) == 1


@pytest.mark.parametrize("how", ["script", "module"])
def test_scripts_and_modules(launcher: Launcher, collector: Receiver, how: str) -> None:
    words = [PROGRAM] if how == "script" else ["-m", "program"]
    process = launcher.start("exec", "--", sys.executable, *words, "last")
    assert process.wait() == 0
    wait_for_names(collector, "last")


@pytest.mark.parametrize("ours", [True, False])
def test_as_the_first_process_of_a_container(launcher: Launcher, ours: bool) -> None:
    """Number 1: the kernel ignores SIGTERM for it, as without us; SIGINT ends it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a namespace of processes")
    before = [str(SCRIPT), "exec", "--"] if ours else []
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = launcher.start(
        *unshare[1:],
        *before,
        sys.executable,
        PROGRAM,
        "waits",
        program=Path("/usr/bin/unshare"),
    )
    process.wait_for_output("\n1\n" if ours else "1\n")
    (first,) = psutil.Process(process.popen.pid).children()
    first.send_signal(signal.SIGTERM)
    with pytest.raises(psutil.TimeoutExpired):
        first.wait(1)
    first.send_signal(signal.SIGINT)
    assert process.wait() != 0
    assert "KeyboardInterrupt" in process.output


@pytest.mark.parametrize("how", ["-I", "-E", "-Sc", "script"])
def test_options_that_keep_us_out_are_said(launcher: Launcher, how: str) -> None:
    script = launcher.folder / "isolated"
    script.write_text(f"#!{sys.executable} -Es\nprint('ran')\n")
    script.chmod(0o755)
    words = [sys.executable, how, *(["-c"] if how != "-Sc" else []), "print('ran')"]
    done = launcher.run("exec", "--", *([str(script)] if how == "script" else words))
    assert (done.stdout, done.returncode) == ("ran\n", 0)
    (line,) = done.stderr.splitlines()
    assert "the program runs untraced; drop the option" in line


@pytest.mark.parametrize("options", [["-P"], ["-s"], ["-Wignore::EncodingWarning"]])
def test_other_options_of_python_are_traced(
    launcher: Launcher, collector: Receiver, options: list[str]
) -> None:
    if options == ["-P"] and sys.version_info < (3, 11):
        pytest.skip("Python 3.11 has it first")
    words = [sys.executable, *options, PROGRAM, "last"]
    assert launcher.start("exec", "--", *words).wait() == 0
    wait_for_names(collector, "last")


@pytest.mark.parametrize("before", [[str(CELERY)], [sys.executable, "-m", "celery"]])
@pytest.mark.parametrize("pool", ["-Pprefork", "--pool=gevent", "--pool=eventlet"])
def test_celery_below_exec_is_otel_celery(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    before: list[str],
    pool: str,
) -> None:
    """Also where its pool patches at the very start of the process."""
    words = ("exec", "--", *before, "-A", "shop", "worker", "-l", "INFO", pool)
    worker = launcher.start(*words).wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 5)
    worker.stop()
    assert_each_run_once(collector, producer)
    (line,) = worker.own_lines
    assert "worker, service 'shop-worker'" in line


STARTERS = {
    "a shell": ["sh", "-c", "celery -A shop worker -l INFO -c 1; true"],
    "a shell that execs": ["sh", "-c", "exec celery -A shop worker -l INFO -c 1"],
    "a supervisor": [
        sys.executable, PROGRAM, "supervises", "celery", "-A", "shop", "worker",
        "-l", "INFO", "-c", "1",
    ],
    "a module": [
        sys.executable, PROGRAM, "supervises", sys.executable, "-m", "celery",
        "-A", "shop", "worker", "-l", "INFO", "-c", "1",
    ],
    "a pool that patches": [
        sys.executable, PROGRAM, "supervises", "celery", "-A", "shop", "worker",
        "-l", "INFO", "-P", "gevent",
    ],
}  # fmt: skip


@pytest.mark.parametrize("starter", STARTERS)
def test_a_worker_that_the_program_starts_is_adopted(
    launcher: Launcher, collector: Receiver, broker: str, starter: str
) -> None:
    path = os.pathsep.join([str(CELERY.parent), launcher.environ["PATH"]])
    program = launcher.start(
        "exec", "--role", "worker", "--", *STARTERS[starter], PATH=path
    ).wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 5)
    workers = [
        each
        for each in processes_in(launcher.environ["HOME"])
        if {"otel-celery", "otel_celery_launcher"}
        & {Path(word).name for word in each.cmdline()}
    ]
    workers[0].terminate()
    program.wait()
    assert_each_run_once(collector, producer)


def test_another_role_leaves_celery_alone(launcher: Launcher, broker: str) -> None:
    """A web process that starts a worker: nobody has asked for its tracing."""
    path = os.pathsep.join([str(CELERY.parent), launcher.environ["PATH"]])
    words = STARTERS["a supervisor"]
    program = launcher.start("exec", "--role", "web", "--", *words, PATH=path)
    program.wait_until_ready()
    assert len(program.own_lines) == 1


def test_a_program_of_role_worker_that_is_none_says_so(launcher: Launcher) -> None:
    done = launcher.run("exec", "--role", "worker", "--", sys.executable, "-c", "pass")
    assert done.returncode == 0
    assert "no Celery worker has started in this process" in done.stderr


def test_otel_status_is_asked_by_a_program_of_its_own(
    launcher: Launcher, broker: str
) -> None:
    """`nautobot-server celery inspect otel_status` and its like."""
    launcher.worker("-n", "w@x")
    words = ("-A", "shop", "inspect", "otel_status")
    done = launcher.run("exec", "--", sys.executable, PROGRAM, "manages", *words)
    assert "service_name" in done.stdout, done


def test_the_doctor_sees_the_application_as_the_program_loads_it(
    launcher: Launcher, broker: str
) -> None:
    """Its broker is set by the program alone; no worker is started."""
    words = ("exec", "--doctor", "--role", "worker", "--", sys.executable, PROGRAM)
    done = launcher.run(
        *words, "works", SHOP_BROKER="redis://127.0.0.1:1/0", REAL_BROKER=broker
    )
    assert done.returncode == 0, done.stdout
    assert "OK    application   shop as the program has loaded it" in done.stdout
    assert "OK    broker " in done.stdout
    assert "ready." not in done.stdout + done.stderr
    done = launcher.run(*words, "works", REAL_BROKER="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "start the broker, or correct broker_url" in done.stdout


@pytest.mark.parametrize("starter", ["a shell that execs", "a supervisor", "a module"])
def test_the_doctor_sees_what_the_program_starts(
    launcher: Launcher, broker: str, starter: str
) -> None:
    path = os.pathsep.join([str(CELERY.parent), launcher.environ["PATH"]])
    words = ("exec", "--doctor", "--role", "worker", "--", *STARTERS[starter])
    done = launcher.run(*words, PATH=path)
    assert "OK    application   shop imports" in done.stdout, done
    assert "OK    broker " in done.stdout
    assert "ready." not in done.stdout + done.stderr
    assert "has started no worker" not in done.stdout


def test_what_fails_below_a_supervisor_is_its_status(launcher: Launcher) -> None:
    (launcher.folder / "broken.py").write_text("raise ValueError('no')\n")
    starts = (
        f"import subprocess; subprocess.run(['{CELERY}', '-A', 'broken', 'worker'])"
    )
    words = ("exec", "--doctor", "--role", "worker", "--", sys.executable, "-c", starts)
    done = launcher.run(*words)
    assert "OC402" in done.stdout, done
    assert done.returncode == 1


def test_a_module_of_the_applications_shadows_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Celery's own script does not look into the working directory first."""
    for name in ("celery", "click", "queue"):
        (launcher.folder / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    path = os.pathsep.join([str(CELERY.parent), launcher.environ["PATH"]])
    words = STARTERS["a shell that execs"]
    worker = launcher.start("exec", "--role", "worker", "--", *words, PATH=path)
    worker.wait_until_ready()
    worker.stop()
    assert "shadowed" not in worker.output
    assert len(worker.own_lines) == 1


def test_a_projects_own_celery_is_run_as_it_is(launcher: Launcher, broker: str) -> None:
    """It sets things up that Celery's script does not."""
    script = launcher.folder / "celery"
    script.write_text(f"#!{sys.executable}\nprint('its own code has run')\n")
    script.chmod(0o755)
    for words in ([str(script)], [sys.executable, str(script)], ["sh", "-c", script]):
        done = launcher.run("exec", "--role", "worker", "--", *map(str, words))
        assert "its own code has run" in done.stdout


@pytest.mark.parametrize("options", [["-um"], ["-X", "utf8", "-m"], ["-B", "-m"]])
def test_options_of_python_before_celery_are_kept(
    launcher: Launcher, broker: str, options: list[str]
) -> None:
    words = [sys.executable, *options, "celery", "-A", "shop", "report"]
    done = launcher.run("exec", "--", *words)
    assert done.returncode == 0, done.stderr
    assert "software -> celery" in done.stdout


def test_a_stream_of_the_applications_own_is_written_to(launcher: Launcher) -> None:
    code = (
        "import sys\n"
        "class Tee:\n"
        "    def write(self, text): sys.__stdout__.write(text)\n"
        "    def flush(self): pass\n"
        "sys.stderr = Tee()\n"
        "from otel_celery_launcher import setup\n"
        "setup(role='web')\n"
    )
    done = launcher.run("-c", code, program=Path(sys.executable))
    assert done.returncode == 0, done.stderr
    assert "otel-celery: " in done.stdout


def test_the_doctor_does_not_hide_that_a_program_fails(launcher: Launcher) -> None:
    words = ("exec", "--doctor", "--role", "worker", "--", sys.executable, "-c")
    done = launcher.run(*words, "raise RuntimeError")
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert "the program has started no worker" in done.stdout
    done = launcher.run("exec", "--doctor", "--role", "scheduler", "--", "never-run")
    assert done.returncode == 0, done.stdout
    assert "spans leave by itself until the first fork" in done.stdout


@pytest.mark.parametrize("form", [[str(CELERY)], [sys.executable, "-m", "celery"]])
def test_the_doctor_examines_celery_with_its_own_options(
    launcher: Launcher, broker: str, form: list[str]
) -> None:
    done = launcher.run(
        "exec", "--doctor", "--", *form, "-A", "shop", "worker", "-P", "gevent"
    )
    assert "pool          gevent" in done.stdout, done
    assert "OK    application   shop imports" in done.stdout
