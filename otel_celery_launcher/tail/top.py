# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery top``: the figures of the tasks in a terminal, once a second.

From its own receiver, or from a ``tail --web`` that runs somewhere: over SSH at night.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NoReturn

import click

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.tail import task_table
from otel_celery_launcher.tail.command import Tail, serving
from otel_celery_launcher.tail.display import Filter
from otel_celery_launcher.tail.output import (
    has_reader,
    prepare_output,
    until_reader_leaves,
    write_line,
)
from otel_celery_launcher.tail.task_figures import TaskRow
from otel_celery_launcher.tail.web.store import Store
from otel_celery_launcher.terminal import cut, escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DRAW_SECONDS = 1.0
LOOK_SECONDS = 0.1
ASK_SECONDS = 5.0  # for an answer of ``tail --web``
ANSWER_BYTES = 4 * 1024 * 1024

# Keys, and what the rows are sorted by then.
SORTS: dict[str, tuple[str, Callable[[TaskRow], float]]] = {
    "r": ("runs", lambda row: row.runs),
    "s": ("runs a second", lambda row: row.rate),
    "f": ("failed", lambda row: row.failed),
    "l": ("lost", lambda row: row.lost),
    "o": ("not ended", lambda row: row.open),
    "p": ("p95", lambda row: row.p95 or 0.0),
    "w": ("wait p95", lambda row: row.wait_p95 or 0.0),
}
HELP = "q ends; sort by r runs, s rate, f failed, l lost, o open, p p95, w wait"

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"

# Of an address at which there is no page, or something else.
_NO_ANSWER = (OSError, ValueError, TypeError, KeyError, http.client.HTTPException)

# What is shown: the sums over all, and the rows.
Figures = tuple[str, list[TaskRow]]


class Endpoint:
    """Asks a ``tail --web``.

    Args:
        address: Its URL.
        token: Its ``--token``; may be empty.
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = address.rstrip("/")
        if "://" not in self._address:
            self._address = f"http://{self._address}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # A proxy of the environment's is not for a forwarded port, nor for the token.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(self) -> Figures:
        """Return what it has.

        Raises:
            LauncherError: It does not answer as one.
        """
        request = urllib.request.Request(  # noqa: S310 - an address of the user's
            f"{self._address}/tasks.json", headers=self._headers
        )
        try:
            with self._opener.open(request, timeout=ASK_SECONDS) as answer:
                document = json.loads(answer.read(ANSWER_BYTES))
            rows = [_read_row(each) for each in document["tasks"]]
            return str(document["totals"]), rows
        except _NO_ANSWER as exc:
            raise LauncherError(
                f"--endpoint is {self._address!r}: expected the page of"
                f" `otel-celery tail --web` ({escape_controls(str(exc))})",
                "start it there, forward its port, or add its --token",
            ) from exc


def _read_row(fields: dict[str, Any]) -> TaskRow:
    """Return a row of an answer, whose numbers are numbers."""
    names = ("runs", "failed", "retried", "lost", "open")
    numbers: dict[str, Any] = {name: int(fields[name]) for name in names}
    for name in ("p50", "p95", "wait_p95"):
        numbers[name] = None if fields[name] is None else float(fields[name])
    rate = float(fields["rate"])
    return TaskRow(name=str(fields["name"]), rate=rate, intervals=(), **numbers)


@click.command()
@click.option("--endpoint", metavar="URL", help="Of a running `tail --web`.")
@click.option("--token", envvar="OTEL_CELERY_WEB_TOKEN", default="", help="Its token.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen there.")
@click.option("--port", default=4317, show_default=True, help="For gRPC.")
@click.option("--http-port", default=4318, show_default=True, help="For HTTP.")
@click.option("--once", is_flag=True, help="Write one table of what is there, and end.")
def top(
    endpoint: str | None, token: str, host: str, port: int, http_port: int, once: bool
) -> None:
    """Show the figures of the tasks, once a second.

    Without --endpoint it receives as `otel-celery tail` does: point
    OTEL_EXPORTER_OTLP_ENDPOINT at it.
    """
    if once and not endpoint:
        raise LauncherError(
            "--once is given without --endpoint: expected a running page to ask",
            "start `otel-celery tail --web`, and add --endpoint",
        )
    prepare_output()
    with until_reader_leaves(), contextlib.ExitStack() as stack:
        if endpoint:
            read = Endpoint(endpoint, token).read
        else:
            read = stack.enter_context(_receiving(host, port, http_port))
        read()  # what is wrong is known before the screen changes
        if once:
            _write(*read())
            return
        _show_until_stopped(read)


@contextlib.contextmanager
def _receiving(host: str, port: int, http_port: int) -> Iterator[Callable[[], Figures]]:
    """Receive, and give a function that returns what has come."""
    store = Store()
    tailing = Tail(
        Filter(), is_json=False, page=None, forwarder=None, store=store, is_quiet=True
    )
    with serving(tailing, host, port, http_port):

        def read() -> Figures:
            tailing.look()
            return store.totals, store.tasks()

        yield read


def _write(totals: str, rows: list[TaskRow]) -> None:
    for line in task_table.lines(rows):
        write_line(line)
    write_line(escape_controls(totals))


def _show_until_stopped(read: Callable[[], Figures]) -> None:
    """Show until SIGINT, SIGTERM or ``q``.

    Raises:
        BrokenPipeError: Nobody reads any more.
        LauncherError: The endpoint is gone.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    is_terminal = sys.stdout.isatty()
    sort = "r"
    with _screen(is_terminal), _keys(is_terminal) as key:
        drawn = 0.0
        while not stopped:
            if not has_reader():
                raise BrokenPipeError
            pressed = key()
            if pressed == "q":
                return
            if pressed in SORTS:
                sort, drawn = pressed, 0.0
            if time.monotonic() - drawn >= DRAW_SECONDS:
                drawn = time.monotonic()
                totals, rows = read()
                rows.sort(key=SORTS[sort][1], reverse=True)
                if is_terminal:
                    _draw(totals, rows, SORTS[sort][0])
                else:
                    _write(totals, rows)
            time.sleep(LOOK_SECONDS)


def _draw(totals: str, rows: list[TaskRow], sort: str) -> None:
    """Draw the whole screen: nothing flickers, since nothing is cleared before."""
    columns, height = shutil.get_terminal_size()
    room = max(1, height - 4)
    table = task_table.lines(rows, columns, room) or ["No task has run yet."]
    lines = [
        f"{totals or 'nothing has come yet'}; by {sort}",
        *table[: height - 2],
        HELP,
    ]
    shown = "".join(f"{cut(line, columns)}{_CLEAR_LINE}\r\n" for line in lines[:-1])
    sys.stdout.write(f"{_HOME}{shown}{cut(lines[-1], columns)}{_CLEAR_REST}")
    sys.stdout.flush()


@contextlib.contextmanager
def _screen(is_terminal: bool) -> Iterator[None]:
    """Draw on the terminal's other screen, and come back to what was there."""
    if not is_terminal:
        yield
        return
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


@contextlib.contextmanager
def _keys(is_terminal: bool) -> Iterator[Callable[[], str]]:
    """Read single keys; give a function that returns the last one, or nothing."""
    if not (is_terminal and sys.stdin is not None and sys.stdin.isatty()):
        yield lambda: ""
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def key() -> str:
        pressed = ""
        while select.select([number], [], [], 0)[0]:
            data = os.read(number, 64)
            if not data:
                break
            pressed = data.decode("ascii", "replace")[-1:]
        return pressed

    try:
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command with click's own messages, and exit with its status.

    Raises:
        LauncherError: A port is taken, or there is no such endpoint.
    """
    top.main(list(arguments), prog_name="otel-celery top")
