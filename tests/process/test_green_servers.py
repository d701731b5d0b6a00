"""Programs on gevent under ``exec``: it must patch before the clients are imported."""

from __future__ import annotations

import ssl
import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

import psutil
import pytest
import trustme

from tests.process.test_web import BIN, ask, serve
from tests.support.harness import wait_until
from tests.support.otlp_http import QuietHandler
from tests.support.processes import is_exporter
from tests.support.servers import APPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

GUNICORN = [BIN / "gunicorn", "-b", "127.0.0.1:{port}", "green_site:app"]
PATCH = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"

# How a program comes to be patched: its command line, its environment.
WAYS = {
    "option": ([*GUNICORN, "-k", "gevent"], {}),
    "two workers": ([*GUNICORN, "--worker-class=gevent", "-w", "2"], {}),
    "preload": ([*GUNICORN, "--preload", "-k", "gevent"], {"SITE_PATCHES": "1"}),
    "configuration": ([*GUNICORN, "-c", "green.conf.py"], {}),
    "variable": (GUNICORN, {"GUNICORN_CMD_ARGS": "--worker-class gevent"}),
    "program": (
        [BIN / "python", APPS / "green_site.py", "{port}"],
        {"SITE_PATCHES": "1"},
    ),
    "upstream's variable": ([*GUNICORN, "-k", "gevent"], {PATCH: "patch_all"}),
}


@pytest.fixture
def https(tmp_path: Path) -> Iterator[str]:
    """A page behind TLS; yields its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", WAYS)
def test_https_calls_on_gevent_work_and_are_traced(
    launcher: Launcher, collector: Receiver, https: str, way: str
) -> None:
    """No RecursionError; call and publish below the request; no gRPC on the loop."""
    command, environ = WAYS[way]
    (launcher.folder / "green.conf.py").write_text('worker_class = "gev" + "ent"\n')
    web, address = serve(
        launcher, *command, SITE_URL=https, **environ,
        OTEL_LOGS_EXPORTER="otlp",  # gunicorn logs before its workers patch
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis,sqlite3",
    )  # fmt: skip
    assert [ask(f"{address}/call") for _ in range(3)] == ["200 False"] * 3
    family = psutil.Process(web.popen.pid).children(recursive=True)
    assert any(is_exporter(each) for each in family)
    wait_until(lambda: len(collector.spans) >= 9, 15, "the spans have come")
    requests = {span.span_id for span in collector.spans if span.kind == "SERVER"}
    for kind in ("CLIENT", "PRODUCER"):
        parents = [span.parent_id for span in collector.spans if span.kind == kind]
        assert sorted(parents) == sorted(requests), kind
    assert "MonkeyPatchWarning" not in web.output
    if "gunicorn" in str(command):
        logs = collector.wait_for_logs(
            lambda logs: any("Listening" in str(each.body) for each in logs), 10
        )
        assert [each for each in logs if "Booting worker" in str(each.body)]


def test_other_values_of_upstreams_variable_are_said(launcher: Launcher) -> None:
    done = launcher.run(
        "exec", "--", str(BIN / "python"), "-c", "", program=BIN / "otel-celery",
        **{PATCH: "some"},
    )  # fmt: skip
    assert f"{PATCH} is 'some': expected patch_all" in done.stderr
    assert done.returncode == 0
