# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Telemetry in a program that is not Celery's: under ``exec``, or by ``setup()``.

The program keeps its process, its arguments, its signals and its exit status. Runs at
its very start, before its first import (``startup/sitecustomize.py``), or where the
application calls it. Nothing of OpenTelemetry is imported until it is known that this
process is to be traced.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from otel_celery_launcher import messages
from otel_celery_launcher.errors import guarded, report_failure
from otel_celery_launcher.import_path import let_the_applications_packages_win
from otel_celery_launcher.monkey_patching import patch_where_asked
from otel_celery_launcher.python_commands import adopted, as_ours, python_options
from otel_celery_launcher.roles import DEFAULT_ROLE, hosted_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from otel_celery_launcher.telemetry import Telemetry

# What ``exec`` hands to the program: its role, and what the service may be called.
ROLE_VARIABLE = "_OTEL_CELERY_ROLE"
APP_VARIABLE = "_OTEL_CELERY_APP"

# "<name>:<pid>" of the traced program above: set by the first Python process below
# ``exec``. A process with that number has been re-executed, one of that name is a
# reloader's child; any other is somebody else's program.
PROGRAM_VARIABLE = "_OTEL_CELERY_PROGRAM"

# Set by ``exec --doctor``: the program is run up to the start of Celery, and examined.
DOCTOR_VARIABLE = "_OTEL_CELERY_DOCTOR"

# The file into which whatever examines something below ``exec --doctor`` writes a mark.
EXAMINED_VARIABLE = "_OTEL_CELERY_EXAMINED"

UNTRACED = "the program runs untraced"

# How multiprocessing, Python's own and billiard's, starts Python.
_SPAWNED = ("spawn_main(", "multiprocessing.forkserver import main")


def start_program(startup_folder: str) -> None:
    """Set up telemetry if this process is the program; leave any other alone.

    Args:
        startup_folder: Leaves the ``PYTHONPATH`` of programs that are not ours.
    """
    environ = os.environ
    is_examined = DOCTOR_VARIABLE in environ
    role = environ.get(ROLE_VARIABLE) or DEFAULT_ROLE
    ours: list[str] = []
    with guarded(UNTRACED):
        ours = adopted(sys.orig_argv, role, is_examined=is_examined)
    if ours:
        # Nothing has run here yet, so this process can become ours.
        _restore_environment(environ, startup_folder)
        try:
            os.execve(ours[0], ours, environ)
        except OSError:  # an interpreter that is gone, a command line that is too long
            report_failure(UNTRACED)
            return
    name = _name_of_this_program(sys.orig_argv)
    above = environ.get(PROGRAM_VARIABLE)
    if not is_the_program(sys.orig_argv, name, above):
        _restore_environment(environ, startup_folder)
        return
    if above is None or above.endswith(f":{os.getpid()}"):
        environ[PROGRAM_VARIABLE] = f"{name}:{os.getpid()}"
    let_the_applications_packages_win()
    if is_examined:
        _examine_at_the_start_of_celery(role, environ.get(APP_VARIABLE) or name)
        return
    with guarded(UNTRACED):
        from otel_celery_launcher.corrections import is_disabled

        if not is_disabled(environ):
            problems = patch_where_asked(environ)
            service = environ.get(APP_VARIABLE) or name
            _set_up(role, service, problems, announces=above is None)


def set_up(role: str) -> None:
    """Set up telemetry in this process; what is there already stays.

    Raises:
        LauncherError: A bad value, with OTEL_CELERY_STRICT=true.
    """
    with guarded(UNTRACED):
        from otel_celery_launcher.corrections import is_disabled, prepare_environment

        if _is_set_up():
            return
        problems = prepare_environment(os.environ)
        if not is_disabled(os.environ):
            name = _name_of_this_program([sys.executable, *sys.argv])
            _set_up(role, name, problems, announces=True)


def program_name(argv: Sequence[str]) -> str:
    """Return what a Python command line runs: ``manage``, ``uvicorn``; empty for code.

    Args:
        argv: ``sys.orig_argv``: the interpreter, its options, the program.
    """
    letters, program = python_options(argv)
    if letters.endswith("c") or not program or program[0] == "-":
        return ""
    if letters.endswith("m"):
        return program[0].partition(".")[0]
    return Path(program[0]).stem


def is_uwsgi() -> bool:
    """Return whether this Python is inside uWSGI, which forks without Python's hooks.

    The module is there for applications; at Python's own start there is only the file.
    """
    if "uwsgi" in sys.modules:
        return True
    try:
        return Path("/proc/self/exe").readlink().name.startswith("uwsgi")
    except OSError:  # not Linux, or no /proc
        return False


def _name_of_this_program(argv: Sequence[str]) -> str:
    """Return the same of this process; uWSGI's Python has no command line."""
    return "uwsgi" if is_uwsgi() else program_name(argv)


def is_the_program(argv: Sequence[str], name: str, above: str | None) -> bool:
    """Return whether a process below ``exec`` is the program, or a part of it.

    Args:
        argv: ``sys.orig_argv``.
        name: What it runs.
        above: The program above it, None for the first.
    """
    if above is None:
        return True
    known, _, pid = above.rpartition(":")
    is_spawned = any(mark in word for mark in _SPAWNED for word in argv[1:])
    return is_spawned or pid == str(os.getpid()) or (name != "" and name == known)


def _restore_environment(
    environ: MutableMapping[str, str], startup_folder: str
) -> None:
    """Leave a stranger's process the environment it would have had."""
    entries = environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [each for each in entries if os.path.abspath(each) != startup_folder]
    if any(rest):
        environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        environ.pop("PYTHONPATH", None)
    for variable in (
        ROLE_VARIABLE,
        APP_VARIABLE,
        PROGRAM_VARIABLE,
        DOCTOR_VARIABLE,
    ):
        environ.pop(variable, None)


def _is_set_up() -> bool:
    """Return whether telemetry is there; imports nothing, which would read bad values."""
    launch = sys.modules.get("otel_celery_launcher.launch")
    return launch is not None and bool(launch.is_set_up())


def _set_up(role: str, name: str, problems: Sequence[str], *, announces: bool) -> None:
    from otel_celery_launcher import launch, start_line
    from otel_celery_launcher.settings import Settings

    settings = Settings.from_environ(os.environ, hosted_program(role, name))
    telemetry = launch.set_up(settings)
    if is_uwsgi():
        problems = [*problems, *_export_below_uwsgi(telemetry)]
    if announces:
        start_line.announce(telemetry, problems, has_start_line=True)
    atexit.register(launch.wind_up, telemetry)
    is_celery = bool(as_ours([sys.executable, *sys.orig_argv[1:]]))
    if announces and settings.role == "worker" and not is_celery:
        _tell_if_no_worker_starts()
    if "otel_status" in sys.orig_argv:
        import otel_celery_launcher.status  # noqa: F401 - `inspect` of a program's Celery
    _send_before_termination(telemetry)
    _send_before_exec(telemetry)


def _examine_at_the_start_of_celery(role: str, name: str) -> None:
    """Let the program load its application, then look at it in the worker's place."""
    from otel_celery_launcher import _compat_celery

    program = os.getpid()
    # Whoever examines, this process or one that it starts, leaves its status there.
    marks = os.environ.get(EXAMINED_VARIABLE)
    if not marks:
        import tempfile  # an application that is not examined imports it itself

        number, marks = tempfile.mkstemp(prefix=f"otel-celery-doctor-{program}-")
        os.close(number)
        os.environ[EXAMINED_VARIABLE] = marks
    if _is_of(program, marks):  # also where it has executed itself anew
        atexit.register(_remove, program, marks)

    def examine(application: Any) -> NoReturn:
        from otel_celery_launcher.doctor.command import examine_program

        status = examine_program(role, name, application, os.environ)
        sys.stdout.flush()
        os._exit(status)

    def fail_at_the_end() -> None:
        # Too late to import an exporter: nothing but this is looked at.
        if os.getpid() != program:
            return
        from otel_celery_launcher.doctor.command import tell_no_application

        statuses = _statuses(marks)
        status = max(statuses) if statuses else tell_no_application()
        if status:  # else it is the program's own
            _remove(program, marks)
            os._exit(status)

    atexit.register(fail_at_the_end)
    _compat_celery.call_at_start(examine)


def note_examined(environ: Mapping[str, str], status: int) -> None:
    """Let the program above know that something below it was examined (doctor).

    Args:
        environ: Of this process.
        status: With which the examination ends.
    """
    path = environ.get(EXAMINED_VARIABLE)
    if not path:
        return
    with contextlib.suppress(OSError):
        if _is_of(os.getpid(), path):
            os.unlink(path)  # there is nobody above
            return
        with Path(path).open("a") as file:
            file.write(f"{status}\n")


def _statuses(path: str) -> list[int]:
    """Return the statuses with which examinations below this process have ended."""
    try:
        return [int(line) for line in Path(path).read_text().split()]
    except (OSError, ValueError):
        return []


def _is_of(process: int, path: str) -> bool:
    return f"-{process}-" in Path(path).name


def _remove(process: int, path: str) -> None:
    """Remove a file at the end of the process that has made it."""
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _tell_if_no_worker_starts() -> None:
    """Say at the end of a program of role worker that it was none, if it was none."""
    from celery import signals

    started: list[int] = []
    program = os.getpid()

    def note(**_: Any) -> None:
        started.append(os.getpid())

    def tell() -> None:
        if not started and os.getpid() == program:
            messages.say(
                "no Celery worker has started in this process: expected one below exec"
                " --role worker; if the program starts another that runs the tasks, that"
                " one has a start line of its own, else write otel-celery where it says"
                " celery"
            )

    signals.worker_init.connect(note, weak=False)
    atexit.register(tell)


def _export_below_uwsgi(telemetry: Telemetry) -> list[str]:
    """Export by an exporter process from the start; a line where that is not wanted.

    uWSGI forks in C, so nobody says when, and it never lets a second thread run unless
    it is started with ``--enable-threads``.
    """
    from otel_celery_launcher.exporter.adaptive import AdaptiveExport

    if isinstance(telemetry.export, AdaptiveExport):
        telemetry.export.start_process()
    settings = telemetry.settings
    if settings.mode != "inline" or not settings.exporters:
        return []
    return [
        "inline export needs threads, which uWSGI runs only with --enable-threads:"
        " without it spans wait until a worker ends; add it, or unset"
        " OTEL_CELERY_EXPORT"
    ]


def _send_before_exec(telemetry: Telemetry) -> None:
    """Send what is there before this process becomes another program.

    All of ``os.exec*`` end in these two (CPython ``os.py``).
    """

    def sending_first(execute: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        @functools.wraps(execute)
        def wrapper(*arguments: Any) -> NoReturn:
            if os.getpid() == launcher:
                telemetry.export.force_flush(milliseconds)
            execute(*arguments)

        return wrapper

    launcher = os.getpid()
    milliseconds = int(telemetry.settings.shutdown_seconds * 1000)
    os.execv = sending_first(os.execv)
    os.execve = sending_first(os.execve)


def _send_before_termination(telemetry: Telemetry) -> None:
    """Send what is left when SIGTERM ends the process, which it still does.

    Only where nobody handles it yet. A server's own handler takes our place while it
    serves, and gives it back before it ends itself by the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def send_and_end(number: int, _frame: object) -> None:
        from otel_celery_launcher.launch import wind_up

        signal.signal(number, signal.SIG_DFL)
        wind_up(telemetry)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, send_and_end)
