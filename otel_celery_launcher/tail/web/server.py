# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Serves the live page: HTML, one style sheet, one script, and events as things change.

One thread a connection; nothing that receives waits for a browser. A page on another
site cannot read it: the name under which it is asked for must be this machine's, or a
token is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import json
import math
import threading
import time
from collections import OrderedDict
from http import HTTPStatus
from http.cookies import SimpleCookie
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import click

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.messages import say
from otel_celery_launcher.receiver.http_base import BoundedHandler, BoundedHttpServer
from otel_celery_launcher.tail.web import views
from otel_celery_launcher.tail.web.shell import filters, page
from otel_celery_launcher.tail.web.views import VIEWS, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_celery_launcher.tail.web.store import Store

WEB_PORT = 4319  # beside those of OTLP


def web_option(text: str) -> Callable[[Any], Any]:
    """Return the option ``--web`` of a command, whose port may be left out.

    Args:
        text: What the command does with it.
    """
    return click.option(
        "--web",
        metavar="[PORT]",
        type=click.IntRange(0, 65535),
        is_flag=False,
        flag_value=WEB_PORT,
        help=f"{text}  [default port: {WEB_PORT}]",
    )


# A thread each; browsers open six at most to one server.
CONNECTIONS = 64

# Until a request has come, on a connection that is kept, too.
IDLE_SECONDS = 30.0

# A browser that takes nothing for so long is cut off.
SEND_SECONDS = 10.0

# At most one event in this time, and at least one in that: else nobody sees that a
# connection is gone.
EVENT_SECONDS = 1.0
QUIET_SECONDS = 15.0

# Times in a view grow older even if nothing comes.
REDRAW_SECONDS = 5.0
VIEWS_KEPT = 16

COOKIE = "otel_celery_token"

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_FILES = {
    "/page.css": ("otel_celery_launcher.tail", "page.css", "text/css"),
    "/live.js": ("otel_celery_launcher.tail.web", "live.js", "text/javascript"),
}


class WebServer:
    """Listens from its making until ``stop``.

    Args:
        store: What is shown.
        port: 0 lets the system choose.
        host: Name or address to listen on.
        token: What a browser has to show; empty where only this machine can reach it.

    Attributes:
        port: The one it listens on.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self, store: Store, port: int = 0, host: str = "127.0.0.1", token: str = ""
    ) -> None:
        class Handler(_Handler):
            pass

        Handler.store, Handler.token = store, token
        Handler.cache = Cache(store)
        Handler.stopped = threading.Event()
        self._stopped = Handler.stopped
        self._server = BoundedHttpServer((host, port), Handler, CONNECTIONS)
        self.port = self._server.port

    def stop(self) -> None:
        """Stop listening, and end what goes on."""
        self._stopped.set()
        self._server.stop()


@contextlib.contextmanager
def serve_page(
    store: Store, port: int, host: str = "127.0.0.1", token: str = ""
) -> Iterator[None]:
    """Serve the live page until the block ends, and say where.

    Raises:
        LauncherError: The port is taken.
    """
    try:
        server = WebServer(store, port, host, token)
    except OSError as exc:
        raise LauncherError(
            f"--web is {port}: expected a free port ({exc})",
            f"end the server there, or choose another: --web {WEB_PORT + 1}",
        ) from exc
    say(f"the live page is {url(host, server.port)}/{'?token=…' if token else ''}")
    try:
        yield
    finally:
        server.stop()


def url(host: str, port: int) -> str:
    """Return the address of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class Cache:
    """Draws each view once a second at most, one at a time, however many look at it.

    Args:
        store: What is shown.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._drawing = threading.Lock()
        self._drawn: OrderedDict[tuple[str, Query], tuple[float, int, str | None]] = (
            OrderedDict()
        )

    def view(self, path: str, query: Query) -> str | None:
        """Return a view; None if there is nothing at this address."""
        with self._drawing:
            key = path, query
            drawn, version, body = self._drawn.pop(key, (-math.inf, -1, None))
            now = time.monotonic()
            if now - drawn >= EVENT_SECONDS and (
                version != (latest := self._store.version)
                or now - drawn >= REDRAW_SECONDS
            ):
                body = view(self._store, path, query)
                drawn, version = now, latest
            self._drawn[key] = drawn, version, body
            while len(self._drawn) > VIEWS_KEPT:
                self._drawn.popitem(last=False)
            return body


class _Handler(BoundedHandler):
    idle_seconds = IDLE_SECONDS
    store: Store
    cache: Cache
    token: str
    stopped: threading.Event

    def do_GET(self) -> None:  # noqa: N802 - the name is the library's
        """Answer with a view, a file, or events."""
        self.connection.settimeout(SEND_SECONDS)
        try:
            parts, pairs = _read_address(self.path)
        except ValueError:
            self._answer("not an address", "text/plain", HTTPStatus.BAD_REQUEST)
            return
        if not (self._is_alone() and self._is_allowed(pairs)):
            return
        if parts.path in _FILES:
            package, name, kind = _FILES[parts.path]
            self._answer(files(package).joinpath(name).read_text(), kind)
        elif parts.path == "/tasks.json":
            self._answer(tasks_as_json(self.store), "application/json")
        elif parts.path == "/live":
            self._send_events(pairs.get("view", "/"))
        else:
            self._show(parts.path, pairs)

    def _show(self, path: str, pairs: dict[str, str]) -> None:
        query = Query.read(pairs)
        body = self.cache.view(path, query)
        if body is None:
            self._answer(
                page(path, "Not here", "", "", "<p>This trace is not kept here.</p>"),
                status=HTTPStatus.NOT_FOUND,
            )
            return
        heading = VIEWS[path][0] if path in VIEWS else "Trace"
        shown = filters(path, query)
        self._answer(page(path, heading, self.store.totals, shown, body))

    # Who may ask.

    def _is_alone(self) -> bool:
        """Return whether nothing follows a request, and no other site makes it."""
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._answer("expected no body", "text/plain", HTTPStatus.BAD_REQUEST)
            return False
        is_page = self.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        if not is_page and self.headers.get("Sec-Fetch-Site") == "cross-site":
            self._answer("another site asks", "text/plain", HTTPStatus.FORBIDDEN)
            return False
        return True

    def _is_allowed(self, pairs: dict[str, str]) -> bool:
        """Return whether a request may be answered; if not, it has been."""
        if not self.token:
            with contextlib.suppress(ValueError):
                host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
                if is_loopback(host or ""):
                    return True
            self._answer(
                "expected a Host of this machine", "text/plain", HTTPStatus.FORBIDDEN
            )
            return False
        given = pairs.get("token", "")
        if given and self._is_token(given):  # once, from the address line
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", urlsplit(self.path).path or "/")
            cookie: SimpleCookie = SimpleCookie({COOKIE: given})
            cookie[COOKIE]["httponly"] = "yes"
            cookie[COOKIE]["samesite"] = "Lax"  # a link in a message has to work
            cookie[COOKIE]["path"] = "/"
            self.send_header("Set-Cookie", cookie[COOKIE].OutputString())
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        if self._is_token(self._cookie()) or self._is_token(self._bearer()):
            return True
        self._answer(
            "expected --token's value: /?token=…", "text/plain", HTTPStatus.UNAUTHORIZED
        )
        return False

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(
            given.encode("utf-8", "replace"), self.token.encode()
        )

    def _cookie(self) -> str:
        """Return ours; others of this machine may have any form."""
        for pair in self.headers.get("Cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                return value.strip('"')
        return ""

    def _bearer(self) -> str:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return value if kind.lower() == "bearer" else ""

    # Answers.

    def _answer(
        self,
        body: str,
        kind: str = "text/html",
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        data = body.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self._end_headers()
        self.wfile.write(data)

    def _end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_events(self, address: str) -> None:
        """Send a view each time that it changes, until the browser leaves."""
        self.close_connection = True
        try:
            parts, pairs = _read_address(address)
        except ValueError:
            parts, pairs = _read_address("/")
        query = Query.read(pairs)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self._end_headers()
        version, last, sent = -1, b"", time.monotonic()
        while not self.stopped.is_set():
            version = self.store.wait(version, EVENT_SECONDS)
            body = self.cache.view(parts.path, query)
            found = {"totals": self.store.totals, "body": body}
            event = json.dumps(found, ensure_ascii=False)
            digest = hashlib.blake2b(event.encode("utf-8", "replace")).digest()
            now = time.monotonic()
            if digest != last:
                self._send(f"data: {event}\n\n")
                last, sent = digest, now
            elif now - sent > QUIET_SECONDS:
                self._send(": nothing new\n\n")
                sent = now
            del body, found, event
            self.stopped.wait(EVENT_SECONDS)

    def _send(self, event: str) -> None:
        self.wfile.write(event.encode("utf-8", "replace"))
        self.wfile.flush()


def _read_address(address: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the parts of an address, and its query.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(address)
    return parts, dict(parse_qsl(parts.query))


def view(store: Store, path: str, query: Query) -> str | None:
    """Return what an address shows; None if there is nothing."""
    if path in VIEWS:
        return VIEWS[path][1](store, query)
    start, _, trace_id = path.rpartition("/")
    return views.trace(store, trace_id) if start == "/trace" else None


def tasks_as_json(store: Store) -> str:
    """Return the figures of all tasks, as ``otel-celery top`` reads them."""
    rows = []
    for row in store.tasks():
        fields = {name: getattr(row, name) for name in row.__slots__}
        del fields["intervals"]
        rows.append(fields)
    return json.dumps({"totals": store.totals, "tasks": rows})
