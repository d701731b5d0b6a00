"""Faults set up for real, one at a time: ``doctor`` names each first, with what to do.

README: "`otel-celery doctor` … says where each value came from and what to type next".
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import subprocess
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme

from otel_celery_launcher import __version__
from otel_celery_launcher.receiver.memory import Receiver
from tests.process.test_next_steps import HTTP, answering, refusing
from tests.support.harness import CELERY, SCRIPT, Producer, run_some, wait_until
from tests.support.servers import free_port, is_open, server_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.harness import Launcher

    Environ = dict[str, str]

WAIT_SECONDS = 2.0
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"

# What an older exporter says of all that it cannot reach.
UNCLEAR = "OC324"


class Fault:
    """One fault, and what is typed to see it.

    Attributes:
        launcher: Starts what it takes, in a folder of its own.
        broker: A broker that works.
        stack: Ends with the test.
        options: Of the doctor.
    """

    def __init__(
        self,
        launcher: Launcher,
        request: pytest.FixtureRequest,
        broker: str,
        stack: contextlib.ExitStack,
    ) -> None:
        self.launcher = launcher
        self.request = request
        self.broker = broker
        self.stack = stack
        self.options = ["-A", "shop"]

    def file(self, name: str, text: str) -> None:
        (self.launcher.folder / name).write_text(text)

    def app(self, source: str) -> None:
        self.file("theirs.py", source)
        self.options = ["-A", "theirs"]

    def enter(self, manager: contextlib.AbstractContextManager[Any]) -> Any:
        return self.stack.enter_context(manager)


# Collector.


def closed_port(_: Fault) -> Environ:
    return {ENDPOINT: f"http://127.0.0.1:{free_port()}"}


def closed_port_for_traces(_: Fault) -> Environ:
    return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{free_port()}"}


def grpc_to_http(fault: Fault) -> Environ:
    return {ENDPOINT: fault.enter(answering(200))}


def http_to_grpc(_: Fault) -> Environ:
    return {PROTOCOL: HTTP}


def unknown_host(_: Fault) -> Environ:
    return {ENDPOINT: "http://no.such.host.invalid:4317"}


def https_to_plain(fault: Fault) -> Environ:
    url = fault.enter(Receiver()).endpoint
    return {ENDPOINT: url.replace("http:", "https:")}


def https_to_plain_by_http(fault: Fault) -> Environ:
    url = fault.enter(answering(200))
    return {ENDPOINT: url.replace("http:", "https:"), PROTOCOL: HTTP}


def refused(code: str) -> Callable[[Fault], Environ]:
    return lambda fault: {
        ENDPOINT: fault.enter(refusing(getattr(grpc.StatusCode, code)))
    }


def answered(status: int) -> Callable[[Fault], Environ]:
    return lambda fault: {ENDPOINT: fault.enter(answering(status)), PROTOCOL: HTTP}


def silent_collector(fault: Fault) -> Environ:
    server = fault.enter(socket.create_server(("127.0.0.1", 0)))
    return {ENDPOINT: f"http://127.0.0.1:{server.getsockname()[1]}"}


def over_a_dead_proxy(_: Fault) -> Environ:
    return {"https_proxy": f"http://127.0.0.1:{free_port()}"}


def tls_collector(
    fault: Fault,
    name: str = "127.0.0.1",
    not_after: datetime.datetime | None = None,
    *,
    wants_client: bool = False,
) -> str:
    """Start a collector with TLS; return its URL."""
    authority = trustme.CA()
    pair = authority.issue_cert(name, not_after=not_after)
    authority.cert_pem.write_to_path(fault.launcher.folder / "ca.pem")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(pair.private_key_pem.bytes(), chain)],
        authority.cert_pem.bytes() if wants_client else None,
        wants_client,
    )
    return str(fault.enter(Receiver(credentials=credentials)).endpoint)


def trusting(fault: Fault, endpoint: str) -> Environ:
    file = str(fault.launcher.folder / "ca.pem")
    return {ENDPOINT: endpoint, "OTEL_EXPORTER_OTLP_CERTIFICATE": file}


def plain_to_tls(fault: Fault) -> Environ:
    return {ENDPOINT: tls_collector(fault).replace("https:", "http:")}


def untrusted(fault: Fault) -> Environ:
    return {ENDPOINT: tls_collector(fault)}


def expired(fault: Fault) -> Environ:
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    return trusting(fault, tls_collector(fault, not_after=past))


def another_name(fault: Fault) -> Environ:
    return trusting(fault, tls_collector(fault, "collector.example.org"))


def wants_a_client_certificate(fault: Fault) -> Environ:
    return trusting(fault, tls_collector(fault, wants_client=True))


# Settings.


def setting(**environ: str) -> Callable[[Fault], Environ]:
    return lambda _: environ


def broken_file(fault: Fault) -> Environ:
    fault.file(".env.worker", "OTEL_A=1\nthis is nothing\n")
    return {}


def misspelt_file(fault: Fault) -> Environ:
    fault.file(".env.wroker", "OTEL_SERVICE_NAME=x\n")
    return {}


# Application.


def no_application(fault: Fault) -> Environ:
    fault.options = []
    return {}


def application(source: str) -> Callable[[Fault], Environ]:
    def fault(fault: Fault) -> Environ:
        fault.app(source)
        return {}

    return fault


def no_such_application(fault: Fault) -> Environ:
    fault.options = ["-A", "shop:celery_app"]
    return {}


def hanging(fault: Fault) -> Environ:
    fault.app("import time\n\ntime.sleep(3600)\n")
    fault.options += ["--wait", "0.5"]
    return {}


def hanging_in_a_loop(fault: Fault) -> Environ:
    """It waits for its database, whatever is raised meanwhile."""
    fault.app(
        "import time\n\nwhile True:\n    try:\n        time.sleep(3600)\n"
        "    except:\n        pass\n"
    )
    fault.options += ["--wait", "0.5"]
    return {}


def pool_in_the_configuration(fault: Fault) -> Environ:
    fault.app("from shop import app\napp.conf.worker_pool = 'gevent'\n")
    return {}


# Broker.


def broker_down(_: Fault) -> Environ:
    return {"SHOP_BROKER": f"redis://127.0.0.1:{free_port()}/0"}


def broker_silent(fault: Fault) -> Environ:
    server = fault.enter(socket.create_server(("127.0.0.1", 0)))
    return {"SHOP_BROKER": f"redis://127.0.0.1:{server.getsockname()[1]}/0"}


@contextlib.contextmanager
def redis_with_password() -> Iterator[int]:
    port = free_port()
    program = server_command("redis-server")
    options = ("--port", str(port), "--save", "", "--requirepass", "right")
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: is_open(port), 10, "redis-server listens")
            yield port
        finally:
            server.terminate()


def wrong_password(fault: Fault) -> Environ:
    port = fault.enter(redis_with_password())
    return {"SHOP_BROKER": f"redis://:wr0ng@127.0.0.1:{port}/0"}


def unknown_virtual_host(fault: Fault) -> Environ:
    server = fault.request.getfixturevalue("rabbitmq_server")
    return {"SHOP_BROKER": f"{server}/nowhere"}


# Workers.


def plain_worker(fault: Fault) -> Environ:
    fault.launcher.worker(program=CELERY)
    return {}


def stranger_on_the_broker(fault: Fault) -> Environ:
    fault.file(
        "stranger.py",
        "from celery.worker.control import inspect_command\nfrom shop import app\n\n"
        "@inspect_command(name='otel_status')\ndef answer(state):\n"
        "    return {'service_name': 's'}\n",
    )
    fault.launcher.worker(app="stranger", program=CELERY)
    return {}


def worker_that_delivers_nothing(fault: Fault) -> Environ:
    worker = fault.launcher.worker(**{ENDPOINT: f"http://127.0.0.1:{free_port()}"})
    run_some(Producer(fault.broker), 5)
    worker.wait_for_output("spans do not reach")
    return {}


def publisher(headers: dict[str, str], **environ: str) -> Callable[[Fault], Environ]:
    """A program without OpenTelemetry, or with another kind of context."""

    def fault(fault: Fault) -> Environ:
        fault.launcher.worker()
        app = Producer(fault.broker).app
        sent = [app.send_task("shop.noop", headers=headers) for _ in range(3)]
        for each in sent:
            each.get(timeout=20)
        return environ

    return fault


def older_worker(fault: Fault) -> Environ:
    """A worker from an image that nobody has built anew."""
    package = distribution("otel-celery-launcher").locate_file("otel_celery_launcher")
    folder = fault.launcher.folder / "older"
    copy = shutil.copytree(str(package), folder / "otel_celery_launcher")
    start = copy / "__init__.py"
    start.write_text(start.read_text().replace(__version__, "0.0.9"))
    apps = fault.launcher.environ["PYTHONPATH"]
    fault.launcher.worker(PYTHONPATH=os.pathsep.join((str(folder), apps)))
    return {}


# Name, what sets it up, the number of the finding, a part of its next step.
FAULTS: dict[str, tuple[Callable[[Fault], Environ], str, str]] = {
    "closed port": (closed_port, "OC305", "start the collector"),
    "closed port for traces": (closed_port_for_traces, "OC305", "correct OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    "gRPC to HTTP": (grpc_to_http, "OC311", "=http/protobuf"),
    "HTTP to gRPC": (http_to_grpc, "OC312", "=grpc"),
    "unknown host": (unknown_host, "OC304", "check the host in OTEL_EXPORTER_OTLP_ENDPOINT"),
    "https to plain": (https_to_plain, "OC313", "http:// instead of https://"),
    "https to plain, by HTTP": (https_to_plain_by_http, "OC313", "http:// instead of https://"),
    "plain to TLS": (plain_to_tls, "OC327", "https:// instead of http://"),
    "untrusted certificate": (untrusted, "OC314", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    "expired certificate": (expired, "OC325", "renew"),
    "certificate of another": (another_name, "OC326", "the name that"),
    "client certificate": (wants_a_client_certificate, "OC315", "CLIENT_CERTIFICATE"),
    "unauthenticated": (refused("UNAUTHENTICATED"), "OC316", "OTLP_HEADERS"),
    "permission denied": (refused("PERMISSION_DENIED"), "OC317", "OTLP_HEADERS"),
    "no receiver": (refused("UNIMPLEMENTED"), "OC318", "otlp receiver"),
    "quota": (refused("RESOURCE_EXHAUSTED"), "OC320", "limits"),
    "401": (answered(401), "OC316", "OTLP_HEADERS"),
    "404": (answered(404), "OC319", "is added to it"),
    "405": (answered(405), "OC318", "otlp receiver"),
    "502": (answered(502), "OC323", "log"),
    "503": (answered(503), "OC323", "log"),
    "silent collector": (silent_collector, "OC321", "overloaded"),
    "dead proxy": (over_a_dead_proxy, "OC302", "no_proxy=127.0.0.1"),
    "exporter missing": (setting(OTEL_TRACES_EXPORTER="zipkin"), "OC202", "correct OTEL_TRACES_EXPORTER"),
    "misspelt variable": (setting(OTEL_CELERY_EXPROT="inline"), "OC203", "write OTEL_CELERY_EXPORT"),
    "bad value": (setting(OTEL_TRACES_SAMPLER="sometimes"), "OC202", "correct OTEL_TRACES_SAMPLER"),
    "sampler off": (setting(OTEL_TRACES_SAMPLER="always_off"), "OC209", "parentbased_always_on"),
    "other propagators": (setting(OTEL_PROPAGATORS="b3"), "OC210", "tracecontext,baggage"),
    "disabled": (setting(OTEL_SDK_DISABLED="true"), "OC207", "unset OTEL_SDK_DISABLED"),
    "no exporter": (setting(OTEL_TRACES_EXPORTER="none"), "OC303", "OTEL_TRACES_EXPORTER=otlp"),
    "name of hundreds": (setting(OTEL_SERVICE_NAME="config", OTEL_CELERY_SERVICE_NAME=""), "OC208", "export OTEL_SERVICE_NAME="),
    "without effect": (setting(OTEL_BSP_EXPORT_TIMEOUT="5"), "OC204", "unset"),
    "configuration file": (setting(OTEL_CONFIG_FILE="otel.yaml"), "OC205", "unset"),
    "broken file": (broken_file, "OC201", "correct .env.worker, line 2"),
    "misspelt file": (misspelt_file, "OC213", "mv .env.wroker .env.worker"),
    "no -A": (no_application, "OC401", "otel-celery -A <app> doctor"),
    "application raises": (application("raise ValueError('no')"), "OC402", "python -c 'import theirs'"),
    "application exits": (application("import sys; sys.exit('no database')"), "OC403", "python -c"),
    "application hangs": (hanging, "OC404", "look at that line"),
    "application hangs in a loop": (hanging_in_a_loop, "OC404", "look at that line"),
    "application of another name": (no_such_application, "OC407", "otel-celery -A shop:app doctor"),
    "calls that nothing records": (application("import requests\nfrom shop import app"), "OC103", "pip install 'opentelemetry-instrumentation-requests"),
    "pool too late": (pool_in_the_configuration, "OC501", "-P gevent"),
    "unknown transport": (setting(SHOP_BROKER="nosuch://host"), "OC601", "install its transport"),
    "misspelt transport": (setting(SHOP_BROKER="redsi://127.0.0.1"), "OC601", "write redis://"),
    "broker down": (broker_down, "OC605", "start the broker"),
    "broker silent": (broker_silent, "OC606", "says nothing"),
    "wrong password": (wrong_password, "OC603", "user and password"),
    "virtual host": (unknown_virtual_host, "OC604", "virtual host"),
    "plain worker": (plain_worker, "OC701", "otel-celery instead of celery"),
    "stranger on the broker": (stranger_on_the_broker, "OC707", "look at what runs as"),
    "worker delivers nothing": (worker_that_delivers_nothing, "OC702", "for celery@"),
    "publisher without context": (publisher({}), "OC704", "otel-celery"),
    "publisher with B3": (publisher({"b3": f"{1:032x}-{1:016x}-1"}), "OC705", "add b3 to OTEL_PROPAGATORS"),
    "older worker": (older_worker, "OC706", "restart"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_first_with_its_next_step(
    launcher: Launcher, request: pytest.FixtureRequest, broker: str, name: str
) -> None:
    set_up, number, next_ = FAULTS[name]
    with contextlib.ExitStack() as stack:
        fault = Fault(launcher, request, broker, stack)
        environ = set_up(fault)
        options = ("--json", "--wait", str(WAIT_SECONDS), *fault.options)
        start = time.monotonic()
        done = launcher.run("doctor", *options, **environ)
        took = time.monotonic() - start
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)["findings"]
    (first, *_) = [
        each
        for level in ("FAIL", "WARN")
        for each in found
        if each["level"] == level and each["next"]
    ]
    if first["id"] == UNCLEAR and first["seen"].endswith("(UNAVAILABLE)"):
        return  # exporters before 1.35 log the status alone
    assert (first["id"], next_ in first["next"]) == (number, True), first
    # Its own time-out (the broker has two steps, an import six), and a start under load.
    assert took < 3 * WAIT_SECONDS + 8


def test_what_others_say_commands_no_terminal_and_tells_no_secret(
    launcher: Launcher,
) -> None:
    """The text of an exception: a URL with a password, an escape sequence."""
    source = "raise ValueError('redis://me:s3cr3t/x@host/0 \\x1b]0;owned\\x07 \\u202e')"
    (launcher.folder / "theirs.py").write_text(source)
    for options in ((), ("--json",)):
        done = launcher.run("doctor", "-A", "theirs", *options)
        assert done.returncode == 1
        assert "s3cr3t" not in done.stdout
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
    closed = launcher.start(
        "-c", f"exec {SCRIPT} doctor -A theirs >&-", program=Path("/bin/bash")
    )
    assert closed.wait() == 1
    assert "Traceback" not in closed.output


def test_a_file_that_is_no_misspelling_is_left_alone(launcher: Launcher) -> None:
    for name in (".env.worker", ".env.worker.bak", ".env.worker~", ".env.workers"):
        (launcher.folder / name).write_text("OTEL_SERVICE_NAME=x\n")
    done = launcher.run("doctor", "--json", "--wait", "1")
    found = json.loads(done.stdout)["findings"]
    assert [each["seen"] for each in found if each["check"] == "files"] == []
