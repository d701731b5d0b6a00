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

from otel_celery_launcher.roles import DEFAULT_ROLE, hosted_program

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from otel_celery_launcher.telemetry import Telemetry

# What ``exec`` hands to the program: its role, and what the service may be called.
ROLE_VARIABLE = "_OTEL_CELERY_ROLE"
APP_VARIABLE = "_OTEL_CELERY_APP"

# "<name>:<pid>" of the traced program above: set by the first Python process below
# ``exec``. A process with that number has been re-executed, one of that name is a
# reloader's child; any other is somebody else's program.
PROGRAM_VARIABLE = "_OTEL_CELERY_PROGRAM"

# How multiprocessing, Python's own and billiard's, starts Python.
_SPAWNED = ("spawn_main(", "multiprocessing.forkserver import main")

# Options of Python that take a value in the next word.
_VALUE_OPTIONS = frozenset({"-W", "-X", "--check-hash-based-pycs"})


def start_program(startup_folder: str) -> None:
    """Set up telemetry if this process is the program; leave any other alone.

    Args:
        startup_folder: Leaves the ``PYTHONPATH`` of programs that are not ours.
    """
    environ = os.environ
    name = program_name(sys.orig_argv)
    above = environ.get(PROGRAM_VARIABLE)
    if not is_the_program(sys.orig_argv, name, above):
        _restore_environment(environ, startup_folder)
        return
    if above is None or above.endswith(f":{os.getpid()}"):
        environ[PROGRAM_VARIABLE] = f"{name}:{os.getpid()}"
    if environ.get("OTEL_SDK_DISABLED") == "true":
        return
    role = environ.get(ROLE_VARIABLE) or DEFAULT_ROLE
    _set_up(role, environ.get(APP_VARIABLE) or name, [], announces=above is None)


def set_up(role: str) -> None:
    """Set up telemetry in this process; what is there already stays.

    Raises:
        LauncherError: A bad value, with OTEL_CELERY_STRICT=true.
    """
    from otel_celery_launcher.launch import is_set_up
    from otel_celery_launcher.settings import prepare_environment

    if is_set_up():
        return
    problems = prepare_environment(os.environ)
    if os.environ.get("OTEL_SDK_DISABLED") == "true":
        return
    name = program_name([sys.executable, *sys.argv])
    _set_up(role, name, problems, announces=True)


def program_name(argv: Sequence[str]) -> str:
    """Return what a Python command line runs: ``manage``, ``uvicorn``; empty for code.

    Args:
        argv: ``sys.orig_argv``: the interpreter, its options, the program.
    """
    words = iter(argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "").partition(".")[0]
        if word == "-c":
            return ""
        if word in _VALUE_OPTIONS:
            next(words, None)
        elif not word.startswith("-"):
            return Path(word).stem
    return ""


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
    for variable in (ROLE_VARIABLE, APP_VARIABLE, PROGRAM_VARIABLE):
        environ.pop(variable, None)


def _set_up(role: str, name: str, problems: Sequence[str], *, announces: bool) -> None:
    from otel_celery_launcher import launch
    from otel_celery_launcher.settings import Settings

    try:
        settings = Settings.from_environ(os.environ, hosted_program(role, name))
        telemetry = launch.set_up(settings)
    except Exception:  # noqa: BLE001 - the boundary: a bug of ours stops no program
        launch.report_bug("tracing could not be set up: the program runs without")
        return
    if announces:
        launch.announce(telemetry, problems, has_start_line=True)
    atexit.register(launch.wind_up, telemetry)
    _send_before_termination(telemetry)
    _send_before_exec(telemetry)


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
