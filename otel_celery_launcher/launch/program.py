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
import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from otel_celery_launcher import messages
from otel_celery_launcher.command_line import DEFAULT_ROLE, program_command_line
from otel_celery_launcher.compat.monkey_patching import patch_where_asked
from otel_celery_launcher.errors import guarded, report_failure
from otel_celery_launcher.ipc import inherited
from otel_celery_launcher.launch.collections_paused import collections_paused
from otel_celery_launcher.launch.import_path import let_the_applications_packages_win
from otel_celery_launcher.launch.python_commands import adopted, as_ours, python_options
from otel_celery_launcher.launch.untraced import keep_health_file

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from otel_celery_launcher.telemetry.setup import Telemetry

UNTRACED = "the program runs untraced"

# How multiprocessing, Python's own and billiard's, starts Python.
_SPAWNED = ("spawn_main(", "multiprocessing.forkserver import main")


def start_program(
    startup_folder: str, examine: Callable[[str, str], None] | None = None
) -> None:
    """Set up telemetry if this process is the program; leave any other alone.

    Args:
        startup_folder: Removed from ``PYTHONPATH`` for programs that are not ours.
        examine: ``exec --doctor`` calls it instead, with role and default service name.
    """
    environ = os.environ
    is_examined = examine is not None
    role = environ.get(inherited.EXEC_ROLE) or DEFAULT_ROLE
    ours: list[str] = []
    with guarded(UNTRACED):
        ours = adopted(sys.orig_argv, role, is_examined=is_examined)
    if ours:
        _become(ours, environ, startup_folder)
        return
    name = _name_of_this_program(sys.orig_argv)
    above = environ.get(inherited.PROGRAM)
    if not is_the_program(sys.orig_argv, name, above):
        _restore_environment(environ, startup_folder)
        return
    if above is None or above.endswith(f":{os.getpid()}"):
        environ[inherited.PROGRAM] = f"{name}:{os.getpid()}"
    let_the_applications_packages_win()
    service = environ.get(inherited.EXEC_APP) or name
    if examine is not None:
        examine(role, service)
        return
    with guarded(UNTRACED):
        trace(role, service, announces=above is None)


def trace(role: str, service: str, *, announces: bool) -> None:
    """Set up telemetry at the very start of the program."""
    from otel_celery_launcher.settings.corrections import (
        correct_environment,
        is_disabled,
    )

    if is_disabled(os.environ):
        keep_health_file(role, os.environ)
    else:
        # What was set below ``exec``: `exec -- env OTEL_… program`.
        problems = list(map(str, correct_environment(os.environ)))
        problems += patch_where_asked(os.environ)
        with collections_paused():  # no thread of the program's is there yet
            _set_up(role, service, problems, announces=announces)


def _become(
    ours: Sequence[str], environ: MutableMapping[str, str], startup_folder: str
) -> None:
    """Execute otel-celery here: nothing has run in this process yet."""
    _restore_environment(environ, startup_folder)
    try:
        os.execve(ours[0], list(ours), environ)
    except OSError:  # an interpreter that is gone, a command line that is too long
        report_failure(UNTRACED)


def set_up(role: str) -> None:
    """Set up telemetry in this process; what is there already stays.

    Raises:
        LauncherError: A bad value, with OTEL_CELERY_STRICT=true.
    """
    with guarded(UNTRACED):
        from otel_celery_launcher.settings.corrections import (
            is_disabled,
            prepare_environment,
        )

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

    The module is there for applications; at Python's own start there is only the file,
    or the script of the distribution ``pyuwsgi``, which runs uWSGI in Python.
    """
    script = program_name(sys.orig_argv)
    if "uwsgi" in sys.modules or script in {"uwsgi", "pyuwsgi"}:
        return True
    try:
        return Path("/proc/self/exe").readlink().name.startswith("uwsgi")
    except OSError:  # not Linux, or no /proc
        return False


def _name_of_this_program(argv: Sequence[str]) -> str:
    """Return ``program_name`` of this process; uWSGI's Python has no command line."""
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
    """Give a process that is not ours the environment it would have had."""
    entries = environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [each for each in entries if os.path.abspath(each) != startup_folder]
    if any(rest):
        environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        environ.pop("PYTHONPATH", None)
    for variable in (
        inherited.EXEC_ROLE,
        inherited.EXEC_APP,
        inherited.PROGRAM,
        inherited.DOCTOR,
    ):
        environ.pop(variable, None)


def _is_set_up() -> bool:
    """Return whether telemetry is there; imports nothing, which would read bad values."""
    module = sys.modules.get("otel_celery_launcher.launch.celery_command")
    return module is not None and bool(module.is_set_up())


def _set_up(role: str, name: str, problems: Sequence[str], *, announces: bool) -> None:
    from otel_celery_launcher.launch import celery_command, start_line
    from otel_celery_launcher.settings.settings import Settings

    settings = Settings.from_environ(os.environ, program_command_line(role, name))
    telemetry = celery_command.set_up(settings)
    if is_uwsgi():
        problems = [*problems, *_export_below_uwsgi(telemetry)]
    if announces:
        start_line.announce(telemetry, problems, has_start_line=True)
    atexit.register(celery_command.shut_down, telemetry)
    is_celery = bool(as_ours([sys.executable, *sys.orig_argv[1:]]))
    if announces and settings.role == "worker" and not is_celery:
        _tell_if_no_worker_starts()
    if "otel_status" in sys.orig_argv:
        import otel_celery_launcher.launch.inspect_status  # noqa: F401 - `inspect` of a program's Celery
    if inherited.TREE not in os.environ:  # an exporter process outlives this one
        _send_before_termination(telemetry)
    _send_before_exec(telemetry)


def _tell_if_no_worker_starts() -> None:
    """Report at the end of a program of role worker if it has started no worker."""
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
    """Export by an exporter process from the start; return a line for inline mode.

    uWSGI forks in C without Python's hooks, and it never lets a second thread run
    unless it is started with ``--enable-threads``.
    """
    from otel_celery_launcher.routes.until_fork import UntilForkRoute
    from otel_celery_launcher.settings.settings import Mode

    if isinstance(telemetry.route, UntilForkRoute):
        telemetry.route.start_process()
    settings = telemetry.settings
    if settings.mode is not Mode.INLINE or not settings.traces.exporters:
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
                telemetry.route.flush(telemetry.settings.shutdown_seconds)
            execute(*arguments)

        return wrapper

    launcher = os.getpid()
    os.execv = sending_first(os.execv)
    os.execve = sending_first(os.execve)


def _send_before_termination(telemetry: Telemetry) -> None:
    """Send what is left when SIGTERM ends the process, which it still does.

    Does nothing if SIGTERM has a handler. A server's own handler replaces ours while it
    serves; the server restores ours before it ends itself by the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def send_and_end(number: int, _frame: object) -> None:
        from otel_celery_launcher.launch.celery_command import shut_down

        signal.signal(number, signal.SIG_DFL)
        shut_down(telemetry)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, send_and_end)
