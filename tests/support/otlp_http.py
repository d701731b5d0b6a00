"""HTTP servers of the tests; one is an OTLP receiver."""

from __future__ import annotations

import gzip
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.receiver.spans import read_request

if TYPE_CHECKING:
    from collections.abc import Iterator


class QuietHandler(BaseHTTPRequestHandler):
    """Answers 200 to a GET, and logs nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on loopback; yields ``http://127.0.0.1:<port>``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@contextmanager
def http_receiver(store: Receiver) -> Iterator[str]:
    """An OTLP/HTTP receiver that stores into ``store``; yields its URL."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding == "deflate":
                body = zlib.decompress(body)
            if self.path == "/v1/metrics":
                store.store_metrics(body)
            elif self.path == "/v1/logs":
                store.store_logs(body)
            else:
                store.metadata.append(
                    {key.lower(): value for key, value in self.headers.items()}
                    | {"path": self.path}
                )
                store.store(read_request(body))
            self.send_response(200)
            self.end_headers()

    with serve_http(Handler) as url:
        yield url
