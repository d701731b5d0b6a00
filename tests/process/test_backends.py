"""Each `.env` of docs/backends.md, as the doctor and a server see it.

The server takes the backend's place: the address of each endpoint is its own, and all else
is as the page says it.
"""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
from dotenv import dotenv_values

from otel_celery_launcher.receiver.memory import Receiver
from tests.process.test_doctor import examine
from tests.support.documented import named_blocks
from tests.support.otlp_http import QuietHandler, serve_http

if TYPE_CHECKING:
    import grpc

    from tests.support.harness import Launcher

PAGE = (Path(__file__).parent.parent.parent / "docs" / "backends.md").read_text()
FILES = {
    name.removeprefix("backend: "): text
    for name, text in named_blocks(PAGE).items()
    if name.startswith("backend: ")
}

# What some request has: path and a header, or only a header (gRPC).
EXPECTED: dict[str, dict[str, str]] = {
    "collector": {},
    "grafana": {
        "path": "/otlp/v1/traces",
        "authorization": "Basic MTIzNDU2OmdsY19UT0tFTg==",
    },
    "honeycomb": {"x-honeycomb-team": "KEY"},
    "signoz": {"signoz-ingestion-key": "KEY"},
    "datadog": {},
    "datadog-direct": {"path": "/v1/traces", "dd-api-key": "KEY"},
    "newrelic": {"path": "/v1/traces", "api-key": "LICENSE_KEY"},
    "azure": {},
    "xray": {},
    "sentry": {
        "path": "/api/2/integration/otlp/v1/traces",
        "x-sentry-auth": "sentry sentry_key=PUBLIC_KEY",
    },
}
# What some request of metrics has, where that is something else.
EXPECTED_OF_METRICS = {
    "honeycomb": {"x-honeycomb-team": "KEY", "x-honeycomb-dataset": "shop-metrics"},
    "datadog-direct": {"path": "/v1/metrics", "dd-api-key": "KEY"},
}


def moved(text: str, address: str) -> str:
    """Return an `.env` whose endpoints have another scheme, host and port."""

    def to_server(found: re.Match[str]) -> str:
        path = urlsplit(found[2]).path
        return f"{found[1]}={urlunsplit((*urlsplit(address)[:2], path, '', ''))}"

    return re.sub(r"(\w+_ENDPOINT)=(\S+)", to_server, text)


def test_each_backend_is_expected() -> None:
    assert FILES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", FILES)
def test_the_doctor_accepts_it_and_the_headers_arrive(
    launcher: Launcher, name: str
) -> None:
    for variable in [*launcher.environ]:
        if variable.startswith("OTEL_"):
            del launcher.environ[variable]
    file = launcher.folder / ".env"
    values = dotenv_values(stream=StringIO(FILES[name]))
    seen: list[dict[str, str]] = []
    if values.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "http/protobuf":

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                headers = {key.lower(): value for key, value in self.headers.items()}
                seen.append(headers | {"path": self.path})
                self.send_response(200)
                self.end_headers()

        with serve_http(Handler) as address:
            file.write_text(moved(FILES[name], address))
            status, findings = examine(launcher, "-A", "shop")
    else:

        def note(context: grpc.ServicerContext) -> None:
            seen.append(
                {key: str(value) for key, value in context.invocation_metadata()}
            )

        with Receiver(answer=note) as receiver:
            file.write_text(moved(FILES[name], receiver.endpoint))
            status, findings = examine(launcher, "-A", "shop")
            assert receiver.spans[0].service == "shop-worker"
    assert [each for each in findings if each["level"] != "OK"] == []
    assert status == 0
    for wanted in (EXPECTED[name], EXPECTED_OF_METRICS.get(name, {})):
        assert any(wanted.items() <= each.items() for each in seen), (wanted, seen)
