# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The ``otel-celery`` command, top to bottom.

Read the command line, load ``.env`` files, then either hand over to Celery with nothing
of OpenTelemetry imported, or run Celery in this process with telemetry around it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher import __version__
from otel_celery_launcher.command_line import read_command_line
from otel_celery_launcher.errors import LauncherError, guarded
from otel_celery_launcher.ipc import inherited, tree
from otel_celery_launcher.launch.collections_paused import collections_paused
from otel_celery_launcher.launch.import_path import let_the_applications_packages_win
from otel_celery_launcher.launch.reexec import with_executable
from otel_celery_launcher.launch.untraced import keep_health_file
from otel_celery_launcher.messages import say

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from otel_celery_launcher.command_line import CommandLine
    from otel_celery_launcher.telemetry.setup import Telemetry

USAGE_ERROR = 2  # click's status for a command line that it does not understand

OWN_COMMANDS = {
    "bootstrap": "Show which instrumentations fit what is installed.",
    "demo": "Trace a small workflow here.",
    "doctor": "Check whether tracing will work here.",
    "exec": "Run any Python program, traced.",
    "fleet": "Show all live workers of some brokers, and which of them deliver.",
    "healthcheck": "Check with the exit status whether a worker is healthy.",
    "inject": "Write a tree that traces programs by their environment alone.",
    "spool": "Show, or send, what workers have left in a spool directory.",
    "tail": "Receive traces here and show them.",
    "top": "Show the figures of the tasks, once a second.",
}

OWN_HELP = """\
Usage: otel-celery [--env-file FILE]... CELERY-ARGUMENTS

  Celery's own command line, traced with OpenTelemetry: write otel-celery
  instead of celery. Configured by the OTEL_* variables, also from .env and
  .env.<role> in the working directory.

Options, before Celery's:
  --env-file FILE  Load a file of variables whole; may be repeated.

Commands of its own:
  bootstrap        Show which instrumentations fit what is installed here.
  demo             Trace a small workflow here and now; needs nothing installed.
  doctor           Check whether tracing will work here: settings, collector, broker.
  exec -- COMMAND  Run any other Python program, traced: uvicorn, gunicorn, a script.
  fleet            Show all live workers of some brokers, and which of them deliver.
  healthcheck      Check with the exit status whether a worker is healthy; for containers.
  inject DIRECTORY Write a tree that traces programs by their environment alone.
  spool            Show, or send, what workers have left in a spool directory.
  tail             Receive traces here and show each when it is complete; --web: a live page.
  top              Show the figures of the tasks, once a second.

Celery's help:
"""


def run() -> None:
    """Console script: run ``main`` and exit with its status."""
    let_the_applications_packages_win()
    _name_program()
    sys.exit(main(sys.argv[1:], os.environ))


def main(arguments: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """Run one command line; returns the exit status unless Celery exits itself."""
    try:
        command_line = read_command_line(arguments, environ)
        if command_line.command in OWN_COMMANDS:
            return _run_own_command(command_line, environ)
        problems: list[str] = []
        with guarded("no .env file is loaded"):
            problems += _load_env_files(command_line, environ)
        sys.argv[1:] = _celery_arguments(command_line)
        if "_OTEL_CELERY_COMPLETE" in environ:  # the shell asks (click's protocol)
            return _complete()
        try:
            if command_line.role is None:
                return _run_plain_celery(command_line)
            return _run_traced_celery(command_line, environ, problems)
        except SystemExit as exc:
            if exc.code == USAGE_ERROR:
                _say_what_was_meant(command_line.command or "")
            raise
    except LauncherError as error:
        say(f"{error}; {error.hint}")
        return error.exit_status


def _celery_arguments(command_line: CommandLine) -> list[str]:
    """Return Celery's arguments, changed so that it starts workers by otel-celery."""
    arguments = list(command_line.celery_arguments)
    if not command_line.starts_workers or inherited.TREE in os.environ:
        return arguments  # what an injected tree starts has its environment
    arguments, problem = with_executable(
        arguments, str(command_line.command), os.path.abspath(sys.argv[0])
    )
    if problem:
        say(problem)
    return arguments


def _run_plain_celery(command_line: CommandLine) -> int:
    """Hand over to Celery; nothing of OpenTelemetry is imported."""
    if command_line.shows_help:
        print(OWN_HELP)  # noqa: T201
        sys.stdout.flush()
    elif command_line.shows_version:
        print(_version(), flush=True)  # noqa: T201
    if command_line.command == "inspect":
        import otel_celery_launcher.launch.inspect_status  # noqa: F401 - knows `inspect otel_status`
    from celery.__main__ import main as celery_main

    celery_main()
    return 0


def _version() -> str:
    """Return the releases that decide what works; nothing of them is imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        sdk = f"OpenTelemetry {version('opentelemetry-sdk')}"
    except PackageNotFoundError:
        sdk = "OpenTelemetry is not installed"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"otel-celery {__version__} ({sdk}, Python {python})"


def _say_what_was_meant(command: str) -> None:
    """Name a command of ours that Celery, which refuses this one, does not know."""
    from difflib import get_close_matches

    for near in get_close_matches(command, OWN_COMMANDS, 1, 0.7):
        say(f"{command!r} is no command; did you mean `otel-celery {near}`?")


def _run_traced_celery(
    command_line: CommandLine, environ: MutableMapping[str, str], problems: list[str]
) -> int:
    with collections_paused():
        # gevent and eventlet patch before anything imports ssl, threading or gRPC.
        from celery import maybe_patch_concurrency

        maybe_patch_concurrency()
        telemetry = None
        with guarded("Celery runs untraced"):
            telemetry = _set_up(command_line, environ, problems)
        celery = _import_celery()
    if telemetry is None:
        for problem in problems:
            say(problem)
        with guarded("the health file is not touched"):
            keep_health_file(command_line.role, environ)
        return celery()

    from otel_celery_launcher.launch.celery_command import run_with_telemetry

    return run_with_telemetry(telemetry, problems, celery)


def _set_up(
    command_line: CommandLine, environ: MutableMapping[str, str], problems: list[str]
) -> Telemetry | None:
    """Import and set up telemetry; return it, or None if tracing is off."""
    from otel_celery_launcher.settings.corrections import (
        is_disabled,
        prepare_environment,
    )

    problems += prepare_environment(environ)
    if is_disabled(environ):
        return None
    from otel_celery_launcher.launch.celery_command import set_up
    from otel_celery_launcher.settings.advice import application_notes
    from otel_celery_launcher.settings.settings import Settings

    problems += application_notes(command_line, environ)

    return set_up(Settings.from_environ(environ, command_line))


def _import_celery() -> Callable[[], int]:
    """Return Celery's command line; imported only when telemetry is set up."""
    import celery.__main__  # noqa: F401 - under `celery` the application finds it
    from celery.bin.celery import main

    return main  # type: ignore[no-any-return]


def _load_env_files(
    command_line: CommandLine, environ: MutableMapping[str, str]
) -> list[str]:
    """Load ``.env`` files; commands without telemetry load only what is asked for."""
    wanted = command_line.env_files or environ.get("OTEL_CELERY_ENV_FILE")
    if command_line.role is None and not wanted:
        return []
    from otel_celery_launcher.settings.dotenv_files import load_env_files

    return load_env_files(
        environ,
        role=command_line.role,
        workdir=command_line.workdir,
        env_files=command_line.env_files,
        for_others=command_line.starts_workers,
    )


def _complete() -> int:
    """Answer the shell: Celery's commands and options, and our own."""
    import click
    from celery.bin.celery import celery

    celery.params.append(click.Option(["--env-file"], type=click.Path()))
    for name, text in OWN_COMMANDS.items():
        celery.add_command(click.Command(name, help=text))
    return _import_celery()()


def _run_own_command(
    command_line: CommandLine, environ: MutableMapping[str, str]
) -> int:
    """Run a command of ours; some of them leave by themselves."""
    words, env_files = command_line.command_words, command_line.env_files
    if inherited.TREE in environ:
        sys.path.append(tree.exporter_folder(environ[inherited.TREE]))
    if command_line.command == "exec":
        return _execute(words, env_files, environ)
    if command_line.command == "doctor":
        from otel_celery_launcher.doctor.command import main as doctor

        return doctor([*command_line.global_words, *words], env_files, environ)
    if command_line.command == "fleet":
        from otel_celery_launcher.fleet.command import main as fleet

        fleet(words, command_line.app)
    if command_line.command == "healthcheck":
        from otel_celery_launcher.launch.healthcheck import main as healthcheck

        return healthcheck(words, env_files, environ)
    if command_line.command == "spool":
        from otel_celery_launcher.spool.command import main as spool

        spool(words, env_files, environ)
    return _run_command_without_settings(str(command_line.command), words, environ)


def _run_command_without_settings(
    command: str, words: Sequence[str], environ: MutableMapping[str, str]
) -> int:
    if command == "bootstrap":
        from otel_celery_launcher.bootstrap.command import main as bootstrap

        bootstrap(words)
    if command == "inject":
        from otel_celery_launcher.inject.command import main as inject

        inject(words)
    if command == "tail":
        environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes past all logging
        from otel_celery_launcher.tail.command import main as tail

        return tail(words)
    if command == "top":
        environ.setdefault("GRPC_VERBOSITY", "NONE")
        from otel_celery_launcher.tail.top import main as top

        return top(words)
    from otel_celery_launcher.demo.command import main as demo

    return demo(words)


def _execute(
    words: Sequence[str], env_files: Sequence[str], environ: MutableMapping[str, str]
) -> int:
    from otel_celery_launcher.launch.exec_command import Given
    from otel_celery_launcher.launch.exec_command import main as execute

    def examine(role: str, service: str) -> int:
        from otel_celery_launcher.doctor.program import examine_program

        return examine_program(role, service, None, environ)

    return execute(words, env_files, Given(environ, examine))


def _name_program() -> None:
    """Make ``sys.argv[0]`` a path that Python can run: SIGHUP re-executes it.

    Under ``python -m`` it is this package's ``__main__.py``, whose folder would come
    first on the path of the new process and shadow the application's modules.
    """
    if Path(sys.argv[0]).name == "__main__.py":
        script = Path(sys.executable).with_name("otel-celery")
        if script.is_file():
            sys.argv[0] = str(script)
