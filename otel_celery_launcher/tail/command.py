# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery tail``: receive, wait until a trace is complete, show it, hand it on."""

from __future__ import annotations

import contextlib
import signal
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.messages import say, write
from otel_celery_launcher.receiver.forward import Forwarder
from otel_celery_launcher.receiver.grpc_server import (
    LOGS_METHOD,
    METRICS_METHOD,
    GrpcServer,
)
from otel_celery_launcher.receiver.http_server import HttpServer
from otel_celery_launcher.receiver.logs import read_logs
from otel_celery_launcher.receiver.metrics import read_metrics
from otel_celery_launcher.receiver.spans import read_request
from otel_celery_launcher.tail import task_table
from otel_celery_launcher.tail.display import Filter, Summary, Totals, as_json, headline
from otel_celery_launcher.tail.metric_table import MetricTable
from otel_celery_launcher.tail.output import (
    has_reader,
    prepare_output,
    until_reader_leaves,
    write_line,
)
from otel_celery_launcher.tail.page import Page
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.task_figures import TaskFigures
from otel_celery_launcher.tail.traces import Trace, Traces
from otel_celery_launcher.tail.web.server import (
    is_loopback,
    serve_page,
    url,
    web_option,
)
from otel_celery_launcher.tail.web.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import grpc

LOOK_SECONDS = 0.1
PAGE_SECONDS = 2.0  # between two versions of the page
STOP_SECONDS = 5.0  # for what is to be forwarded
TABLE_SECONDS = 60.0  # between two tables of tasks

METRIC_SECONDS = 2.0  # between two tables of metrics; they come once an interval

_DROPS = (
    "tail drops spans: its output is read more slowly than spans come. The last line"
    " counts them; --errors, --slow or --task show less"
)


class Tail:
    """Receives and shows.

    Args:
        wanted: Which traces are shown; all of them are counted.
        is_json: One line a trace, for a program.
        page: Where they are shown, too.
        forwarder: What requests are handed on to.
        has_stacks: Whether stack traces are shown with the errors.
        table_seconds: Between two tables of tasks; 0 for none.
        has_metrics: Whether tables are of the metrics that come, too.
        store: Where it is kept for pages; None without one.
        is_quiet: Whether nothing is written.
    """

    def __init__(
        self,
        wanted: Filter,
        *,
        is_json: bool,
        page: Page | None,
        forwarder: Forwarder | None,
        has_stacks: bool = False,
        table_seconds: float = 0.0,
        has_metrics: bool = False,
        store: Store | None = None,
        is_quiet: bool = False,
    ) -> None:
        self._is_quiet = is_quiet
        self._store = store
        self._metrics = MetricTable() if has_metrics else None
        self._metrics_shown = 0.0
        self._screen = Screen(has_stacks=has_stacks)
        self._figures = TaskFigures() if store is None else store.figures
        self._table_seconds = table_seconds
        self._table_shown = time.monotonic()
        self._wanted = wanted
        self._is_json = is_json
        self._page = page
        self._forwarder = forwarder
        self._traces = Traces()
        self._reading = threading.Lock()  # one at a time: one may become much larger
        self._counted: dict[str, Summary] = {}  # of traces that were shown before
        self._page_written = 0.0
        self._has_warned = False
        self._lock = threading.Lock()
        self.totals = Totals()

    def take_grpc(self, request: bytes, context: grpc.ServicerContext) -> None:
        """Take a request, in a thread of the server."""
        self._take(request, context.invocation_metadata())

    def take_http(self, request: bytes, headers: Mapping[str, str]) -> None:
        """Take a request, in a thread of the server."""
        self._take(request, headers.items())

    def take_grpc_metrics(self, request: bytes, context: grpc.ServicerContext) -> None:
        """Take a request with metrics, in a thread of the server."""
        self._take_metrics(request, context.invocation_metadata())

    def take_http_metrics(self, request: bytes, headers: Mapping[str, str]) -> None:
        """Take a request with metrics, in a thread of the server."""
        self._take_metrics(request, headers.items())

    def take_grpc_logs(self, request: bytes, context: grpc.ServicerContext) -> None:
        """Take a request with log records, in a thread of the server."""
        self._take_logs(request, context.invocation_metadata())

    def take_http_logs(self, request: bytes, headers: Mapping[str, str]) -> None:
        """Take a request with log records, in a thread of the server."""
        self._take_logs(request, headers.items())

    def _take_logs(
        self, request: bytes, headers: Iterable[tuple[str, str | bytes]]
    ) -> None:
        with self._refusing(), self._reading:
            self._traces.add_records(read_logs(request, is_brief=True))
        if self._forwarder is not None:
            self._forwarder.put(request, headers, LOGS_METHOD)

    def _take_metrics(
        self, request: bytes, headers: Iterable[tuple[str, str | bytes]]
    ) -> None:
        with self._refusing(), self._reading:
            points = read_metrics(request)
            if self._metrics is not None:
                self._metrics.add(points)
        if self._store is not None:
            self._store.add_points(points)
        if self._forwarder is not None:
            self._forwarder.put(request, headers, METRICS_METHOD)

    def _take(self, request: bytes, headers: Iterable[tuple[str, str | bytes]]) -> None:
        with self._refusing(), self._reading:
            self._traces.add(read_request(request, is_brief=True))
        if self._forwarder is not None:
            self._forwarder.put(request, headers)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Count a request that is refused."""
        try:
            yield
        except ValueError:
            with self._lock:
                self.totals.refused += 1
            raise

    def look(self, *, is_end: bool = False) -> None:
        """Show what is complete."""
        for trace in self._traces.due(is_end=is_end):
            self._show(trace)
        totals, traces = self.totals, self._traces
        totals.cut, totals.dropped = traces.cut, traces.dropped
        totals.records, totals.apart = traces.records, traces.apart
        if self._store is not None:
            self._store.set_totals(str(totals))
        if self.totals.dropped and not self._has_warned:
            self._has_warned = True
            say(_DROPS)
        now = time.monotonic()
        if self._table_seconds and (
            is_end or now - self._table_shown >= self._table_seconds
        ):
            self._table_shown = now
            self._show_table()
        if self._metrics is not None and (
            is_end or now - self._metrics_shown >= METRIC_SECONDS
        ):
            self._metrics_shown = now
            self._show_metrics(self._metrics)
        if self._page and (is_end or now - self._page_written > PAGE_SECONDS):
            self._page_written = now
            self._page.write(self.totals)

    def end(self, totals: str) -> None:
        """Write the last line; on a terminal below its ^C, and not broken in words."""
        if self._is_json:
            click.echo(totals, err=True)
            return
        columns = self._screen.columns
        if columns:
            write_line()
            totals = "\n".join(textwrap.wrap(totals, columns))
        write_line(totals)

    def _show_table(self) -> None:
        if self._is_json or not self._figures.has_changed:
            return
        self._figures.has_changed = False
        for line in task_table.lines(self._figures.rows(), self._screen.columns):
            write_line(line)
        write_line()

    def _show_metrics(self, metrics: MetricTable) -> None:
        if self._is_json or not metrics.has_changed:
            return
        with self._reading:
            lines = metrics.lines(self._screen.columns, self._counted.__contains__)
        for line in lines:
            write_line(line)
        if lines:
            write_line()

    def _show(self, trace: Trace) -> None:
        rows = trace.rows
        summary = Summary.of(rows)
        if self._store is None:
            self._figures.add(rows)
        else:
            self._store.add(trace, rows, summary)
        self.totals.add(summary, self._counted.pop(trace.trace_id, None))
        self._counted[trace.trace_id] = summary
        while len(self._counted) > self._traces.limit:
            del self._counted[next(iter(self._counted))]
        if self._is_quiet or not self._wanted.fits(trace, summary):
            return
        if self._page:
            self._page.add(trace, summary)
        if self._is_json:
            write_line(as_json(trace, summary))
        else:
            self._screen.show(rows, headline(trace, summary))
            write_line()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen there.")
@click.option("--port", default=4317, show_default=True, help="For gRPC.")
@click.option("--http-port", default=4318, show_default=True, help="For HTTP.")
@click.option("--task", metavar="GLOB", help="Only traces with such a task.")
@click.option("--errors", is_flag=True, help="Only traces with an error.")
@click.option("--slow", metavar="SECONDS", type=float, help="Only longer traces.")
@click.option("--orphans", is_flag=True, help="Only traces that miss a parent.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON a trace.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page, too.",
)
@web_option("Serve a live page there, too.")
@click.option(
    "--web-host",
    default="127.0.0.1",
    show_default=True,
    help="Serve it there; anywhere but on loopback needs a token.",
)
@click.option(
    "--token",
    envvar="OTEL_CELERY_WEB_TOKEN",
    default="",
    help="What a browser has to show once, as /?token=…; also OTEL_CELERY_WEB_TOKEN.",
)
@click.option("--stacks", is_flag=True, help="Show stack traces with the errors.")
@click.option(
    "--summary",
    "table_seconds",
    default=TABLE_SECONDS,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Between two tables of tasks; the last one is at the end. 0 for none.",
)
@click.option(
    "--metrics",
    is_flag=True,
    help="Show a table of the metrics of tasks, as they come.",
)
@click.option("--forward", metavar="ENDPOINT", help="Hand all on to this collector.")
def tail(
    host: str,
    port: int,
    http_port: int,
    web: int | None,
    web_host: str,
    token: str,
    forward: str | None,
    **shown: Any,
) -> None:
    """Receive traces here and show each when it is complete; for development.

    Log records are shown below their spans: OTEL_LOGS_EXPORTER=otlp sends them.
    Point OTEL_EXPORTER_OTLP_ENDPOINT at it. Ctrl-C ends it and prints the totals.
    """
    if web is not None and not (token or is_loopback(web_host)):
        raise LauncherError(
            f"--web-host is {web_host!r}: expected a --token, since others can reach it",
            "set OTEL_CELERY_WEB_TOKEN to a long random text, which openssl rand -hex 16"
            " writes",
        )
    forwarder = Forwarder(forward) if forward else None
    store = None if web is None and shown["html"] is None else Store()
    tailing = _make_tail(store, forwarder, shown)
    prepare_output()
    with until_reader_leaves(), contextlib.ExitStack() as pages:
        if web is not None and store is not None:
            pages.enter_context(serve_page(store, web, web_host, token))
        try:
            _serve(tailing, host, port, http_port)
        finally:
            if forwarder is not None:
                forwarder.stop(STOP_SECONDS)
        tailing.end("; ".join(map(str, filter(None, (tailing.totals, forwarder)))))


def _make_tail(
    store: Store | None, forwarder: Forwarder | None, shown: dict[str, Any]
) -> Tail:
    """Return what the options of the command ask for."""
    names = ("task", "errors", "slow", "orphans")
    html = shown["html"]
    return Tail(
        Filter(**{name: shown[name] for name in names}),
        is_json=shown["is_json"],
        page=None if html is None or store is None else Page(html, store),
        forwarder=forwarder,
        has_stacks=shown["stacks"],
        table_seconds=shown["table_seconds"],
        has_metrics=shown["metrics"],
        store=store,
    )


@contextlib.contextmanager
def serving(tailing: Tail, host: str, port: int, http_port: int) -> Iterator[None]:
    """Receive until the block ends.

    Raises:
        LauncherError: A port is taken.
    """
    with contextlib.ExitStack() as servers:
        try:
            rpc = GrpcServer(
                tailing.take_grpc,
                port,
                host,
                take_metrics=tailing.take_grpc_metrics,
                take_logs=tailing.take_grpc_logs,
            )
            servers.callback(rpc.stop, 1.0)
            http = HttpServer(
                tailing.take_http,
                http_port,
                host,
                tailing.take_http_metrics,
                tailing.take_http_logs,
            )
            servers.callback(http.stop)
        except OSError as exc:
            raise LauncherError(
                f"--port and --http-port are {port} and {http_port}: expected free ones"
                f" ({exc})",
                "end the server there, or choose others: --port 4327 --http-port 4328",
            ) from exc
        say(f"tail listens on {host}, port {rpc.port} for gRPC, {http.port} for HTTP")
        write(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={_address(host, rpc.port)}\n")
        yield


def _serve(tailing: Tail, host: str, port: int, http_port: int) -> None:
    """Receive and show until SIGINT, SIGTERM, or until nobody reads any more."""
    with serving(tailing, host, port, http_port):
        tailing.look()  # a page that cannot be written is known at once
        _look_until_stopped(tailing)
    tailing.look(is_end=True)


def _address(host: str, port: int) -> str:
    """Return where a program on this machine reaches us."""
    known = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return url(known, port)


def _look_until_stopped(tailing: Tail) -> None:
    """Show traces until SIGINT or SIGTERM.

    Raises:
        BrokenPipeError: Nobody reads them any more.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    while not stopped:
        if not has_reader():  # also where nothing is written for a while
            raise BrokenPipeError
        tailing.look()
        time.sleep(LOOK_SECONDS)


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command with click's own messages, and exit with its status.

    Raises:
        LauncherError: A port is taken.
    """
    tail.main(list(arguments), prog_name="otel-celery tail")
