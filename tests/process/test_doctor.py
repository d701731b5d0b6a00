"""``otel-celery doctor``: what it finds, where it came from, what to type next."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import redis
import trustme
from celery import Celery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from otel_celery_launcher.command_line import read_command_line
from otel_celery_launcher.doctor import broker as doctor_broker
from otel_celery_launcher.doctor import installed
from otel_celery_launcher.doctor.pool import check_pool
from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.settings.settings import Settings
from tests.support.documented import numbers
from tests.support.harness import CELERY, Producer, run_some
from tests.support.servers import free_port, producer_on

if TYPE_CHECKING:
    from tests.support.harness import Launcher


def examine(
    launcher: Launcher, *options: str, **environ: str
) -> tuple[int, list[dict[str, Any]]]:
    """Return exit status and findings."""
    done = launcher.run("doctor", "--json", "--wait", "2", *options, **environ)
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == done.returncode
    for each in found["findings"]:
        assert (each["id"] in numbers()) is (each["level"] != "OK"), each
    return done.returncode, found["findings"]


def of(findings: list[dict[str, Any]], check: str) -> list[str]:
    return [
        f"{each['level']} {each['seen']}" for each in findings if each["check"] == check
    ]


def test_all_is_well(launcher: Launcher, collector: Receiver) -> None:
    """Collector, broker and application are there; nothing is left in the broker."""
    done = launcher.run("doctor", "-A", "shop", "--wait", "2")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 failed, 0 warnings.")
    (span,) = collector.spans
    assert (span.name, span.service) == ("otel-celery doctor", "shop-worker")


@pytest.mark.parametrize(
    ("environ", "status", "check", "seen", "next_"),
    [
        ({"OTEL_PROPAGATORS": "bagage"}, 78, "variables", "'bagage' is not", "correct"),
        ({"OTEL_PROPAGATORS": "b3"}, 0, "export", "tracecontext and baggage ends here", "OTEL_PROPAGATORS="),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:CLOSED"}, 1, "endpoint", "no scheme", ""),
        ({"https_proxy": "http://proxy:3128"}, 1, "endpoint", "goes through the proxy of https_proxy", "no_proxy=127.0.0.1"),
        ({"SHOP_BROKER": "redis://:pass/word@127.0.0.1/0"}, 1, "broker", "cannot be read: ValueError", "correct"),
        ({"OTEL_SERVICE_NAMESPACE": "shop"}, 0, "variables", "not a variable that anything", "unset OTEL_SERVICE_NAMESPACE"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(
    launcher: Launcher,
    environ: dict[str, str],
    status: int,
    check: str,
    seen: str,
    next_: str,
) -> None:
    closed = str(free_port())
    environ = {
        name: f"http://127.0.0.1:{closed}"
        if value == "CLOSED"
        else value.replace("CLOSED", closed)
        for name, value in environ.items()
    }
    found, findings = examine(launcher, "-A", "shop", **environ)
    assert found == status, findings
    said = [
        each for each in findings
        if each["check"] == check and seen in each["seen"] and next_ in each["next"]
    ]  # fmt: skip
    assert said, findings


@pytest.mark.parametrize("transport", ["redis", "rabbitmq"])
def test_the_round_trip_leaves_nothing(
    launcher: Launcher,
    request: pytest.FixtureRequest,
    child_environ: dict[str, str],
    broker: str,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the command, and here, where the queue's name is known."""
    app = producer_on(transport, request, child_environ, broker).app
    status, findings = examine(launcher, "-A", "shop")
    assert status == 0, findings
    (seen,) = of(findings, "broker")
    assert seen.endswith(" hands on traceparent and baggage unharmed")
    monkeypatch.setattr(doctor_broker, "queue_name", lambda: "otel-celery-doctor-x")
    (found,) = doctor_broker.check_broker(app, 5)
    assert found.level == "OK", found
    with app.connection_for_read() as connection:
        errors = connection.channel_errors
        with pytest.raises(errors):
            connection.default_channel.queue_declare(
                "otel-celery-doctor-x", passive=True
            )
    if transport == "redis":
        assert redis.Redis.from_url(broker).keys("*doctor*") == []


@pytest.mark.parametrize(
    ("given", "configured", "mode", "platform", "expected"),
    [
        (
            None,
            "prefork",
            "process",
            "linux",
            "OK prefork on linux, spans leave by an exporter process",
        ),
        (
            "solo",
            "prefork",
            "inline",
            "linux",
            "OK solo on linux, spans leave by each process itself",
        ),
        (None, "gevent", "process", "linux", "WARN gevent is set in the configuration"),
        ("eventlet", "prefork", "inline", "linux", "WARN inline export blocks the hub"),
        ("prefork", "prefork", "inline", "win32", "FAIL Celery has no prefork pool"),
        ("threads", "prefork", "inline", "darwin", "WARN darwin: tested on Linux only"),
    ],
)
def test_pool_and_mode_and_platform(
    given: str | None, configured: str, mode: str, platform: str, expected: str
) -> None:
    app = Celery(set_as_current=False)
    app.conf.worker_pool = configured
    settings = Settings.from_environ(
        {"OTEL_CELERY_EXPORT": mode}, read_command_line(["worker"], {})
    )
    (found,) = check_pool(app, given, settings, platform)
    assert f"{found.level} {found.seen}".startswith(expected)
    assert (found.id in numbers()) is (found.level != "OK")


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import sys; sys.exit('DATABASE_URL is missing')", "DATABASE_URL is missing"),
        ("raise ValueError('no')", "Couldn't import 'broken': no"),
        (
            "from celery import Celery; app = Celery(); "
            "app.config_from_object('no_such_settings')",
            "no_such_settings",
        ),
    ],
)
def test_an_application_that_does_not_import_is_a_finding(
    launcher: Launcher, source: str, seen: str
) -> None:
    (launcher.folder / "broken.py").write_text(source)
    status, findings = examine(launcher, "-A", "broken")
    assert status == 1
    (line,) = of(findings, "application")
    assert line.startswith(("FAIL broken does not import: ", "FAIL broken ends the"))
    assert seen in line


def test_what_others_print_is_no_part_of_the_json(launcher: Launcher) -> None:
    """An application at its import, and an exporter that writes to standard output."""
    (launcher.folder / "chatty.py").write_text("from shop import app; print('hello')")
    environ = {"OTEL_TRACES_EXPORTER": "otlp,console"}
    status, findings = examine(launcher, "-A", "chatty", **environ)
    assert status == 0, findings


def test_one_exporter_that_is_refused_is_enough_to_fail(launcher: Launcher) -> None:
    def refuse(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

    with Receiver(answer=refuse) as receiver:
        environ = {
            "OTEL_TRACES_EXPORTER": "otlp,console",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        }
        status, findings = examine(launcher, "-A", "shop", **environ)
    assert status == 1
    (line,) = of(findings, "test span")
    assert line.startswith("FAIL ")


def test_an_endpoint_of_grpcs_that_delivers_is_no_failure(launcher: Launcher) -> None:
    """Its name and port are for gRPC to find: the test span tells."""
    with Receiver() as receiver:
        port = receiver.endpoint.rpartition(":")[2]
        for target in (
            f"dns:///127.0.0.1:{port}",
            f"dns:127.0.0.1:{port}",
            f"ipv4:127.0.0.1:1,127.0.0.1:{port}",
        ):
            environ = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": target,
                "OTEL_EXPORTER_OTLP_INSECURE": "true",
            }
            status, findings = examine(launcher, "-A", "shop", **environ)
            assert of(findings, "endpoint") == [f"OK {target}, grpc"]
            assert of(findings, "collector") == []
            assert of(findings, "test span") == [f"OK {target} accepted it"]
            assert status == 0, findings


def test_a_log_record_is_sent_and_a_second_way_is_seen(launcher: Launcher) -> None:
    source = (
        "import logging\nfrom opentelemetry.sdk._logs import LoggingHandler\n"
        "from shop import app\nlogging.getLogger('shop').addHandler(LoggingHandler())\n"
    )
    (launcher.folder / "twice.py").write_text(source)
    with Receiver() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        _, findings = examine(launcher, "-A", "twice", **environ)
        assert of(findings, "logs") == []
        assert receiver.logs == []
        environ["OTEL_LOGS_EXPORTER"] = "otlp"
        status, findings = examine(launcher, "-A", "twice", **environ)
        assert status == 0, findings
        taken, twice = of(findings, "logs")
        assert taken == f"OK {receiver.endpoint} accepted a log record"
        assert twice.startswith("WARN the logger 'shop' has a opentelemetry.sdk._logs.")
        (record,) = receiver.logs
        assert (record.logger, record.body) == ("otel_celery.doctor", "A test record.")
    with Receiver(takes_logs=False) as receiver:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        _, findings = examine(launcher, "-A", "shop", **environ)
    (line,) = of(findings, "logs")
    assert line.startswith(f"WARN {receiver.endpoint} takes no logs: ")


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}", "unix-abstract:{}"])
def test_a_collector_on_a_unix_socket(launcher: Launcher, form: str) -> None:
    endpoint = form.format(launcher.folder / "otel.sock")
    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Accepting(), server)
    server.add_insecure_port(endpoint)
    server.start()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    _, findings = examine(launcher, "-A", "shop", **environ)
    (note,) = of(findings, "endpoint")
    assert note.startswith(f"WARN the endpoint {endpoint!r} is no http:// URL")
    environ["OTEL_EXPORTER_OTLP_INSECURE"] = "true"
    status, findings = examine(launcher, "-A", "shop", **environ)
    server.stop(None).wait(5)
    assert status == 0, findings
    assert of(findings, "test span") == [f"OK {endpoint} accepted it"]


class Accepting(TraceServiceServicer):
    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
        return ExportTraceServiceResponse()


def test_a_target_that_does_not_deliver_fails_by_its_span(launcher: Launcher) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"unix:{launcher.folder}/none.sock",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
    }
    status, findings = examine(launcher, "-A", "shop", **environ)
    assert status == 1
    (line,) = of(findings, "test span")
    assert line.startswith(f"FAIL unix:{launcher.folder}/none.sock did not accept it: ")


def test_an_address_of_version_6_can_be_copied(launcher: Launcher) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        endpoint = f"http://[::1]:{probe.getsockname()[1]}"
        _, findings = examine(
            launcher, "-A", "shop", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        )
    assert of(findings, "endpoint") == [f"OK {endpoint}, grpc"]
    assert of(findings, "collector")[0].startswith(f"FAIL {endpoint} cannot be reached")


def test_variables_of_the_opentelemetry_operator_are_known(launcher: Launcher) -> None:
    environ = {"OTEL_RESOURCE_ATTRIBUTES_POD_NAME": "worker-1"}
    status, findings = examine(launcher, "-A", "shop", **environ)
    assert status == 0
    (line,) = of(findings, "variables")
    assert line.startswith("OK ")


def test_releases_that_are_known_to_be_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"grpcio": "1.78.1", "opentelemetry-exporter-jaeger": "1.21.0"}
    monkeypatch.setattr(installed, "_version", lambda name: present.get(name, ""))
    found = {each.seen: each for each in installed.check_installed()}
    bad = [seen for seen, each in found.items() if each.level == "FAIL"]
    assert len(bad) == 2
    assert all(found[seen].id == "OC101" for seen in bad)
    assert found[bad[0]].next == "pip install 'grpcio!=1.78.1'"


def test_the_collectors_own_answer_is_shown(launcher: Launcher) -> None:
    def refuse(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

    with Receiver(answer=refuse) as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        status, findings = examine(launcher, "-A", "shop", **environ)
    assert status == 1
    (line,) = of(findings, "test span")
    assert "UNAUTHENTICATED" in line
    if not line.endswith("(UNAUTHENTICATED)"):  # older exporters log the status alone
        assert "who are you" in line


def test_secrets_are_never_shown(launcher: Launcher, broker: str) -> None:
    secret = "s3cr3t"
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": f"key={secret},broken",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{secret}@127.0.0.1:1/{secret}",
        "SHOP_BROKER": broker.replace("redis://", f"redis://:{secret}@"),
    }
    for options in ((), ("--json",)):
        done = launcher.run("doctor", "-A", "shop", "--wait", "2", *options, **environ)
        assert secret not in done.stdout + done.stderr


def test_where_a_value_came_from(launcher: Launcher) -> None:
    (launcher.folder / ".env.worker").write_text("OTEL_TRACES_SAMPLER=sometimes\n")
    status, findings = examine(launcher, "-A", "shop")
    assert status == 78
    (bad,) = [each for each in findings if each["level"] == "FAIL"]
    assert bad["source"] == ".env.worker"


def test_workers_that_run_are_asked(launcher: Launcher, broker: str) -> None:
    """One of ours, one of plain Celery's."""
    launcher.worker("-n", "ours@x")
    launcher.worker("-n", "plain@x", program=CELERY)
    run_some(Producer(broker), 5)
    status, findings = examine(launcher, "-A", "shop")
    assert status == 0
    ours, plain = of(findings, "workers")
    assert ours == "OK 1 of 1 started by otel-celery deliver"
    (table,) = [each["table"] for each in findings if each["table"]]
    assert table[1][:2] == ["ours@x", "shop-worker"]
    assert plain == "WARN plain@x was not started by otel-celery"


@pytest.mark.timed
def test_a_healthy_system_is_examined_within_two_seconds(
    launcher: Launcher, broker: str
) -> None:
    """Four workers, each asked; on a slow machine beside Celery's own question to them."""
    for number in range(4):
        launcher.worker("-c1", "-n", f"w{number}@x")
    took, plain = [], []
    for _ in range(3):
        start = time.monotonic()
        done = launcher.run("doctor", "-A", "shop")
        took.append(time.monotonic() - start)
        assert "4 of 4 started by otel-celery deliver" in done.stdout, done.stdout
        start = time.monotonic()
        launcher.run("-A", "shop", "inspect", "ping", program=CELERY)
        plain.append(time.monotonic() - start)
    assert min(took) < max(2.0, 1.4 * min(plain)), (took, plain)


CODE = """
import sentry_sdk
from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
app = Celery("met", broker="memory://")
def start(exporter):
    sentry_sdk.init("dsn")
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(exporter)
    CeleryInstrumentor().instrument()
    trace.get_tracer("x").start_span("y", kind=trace.SpanKind.CONSUMER)
    app.send_task("z", headers={"traceparent": "00-"}, kwargs={"_otel": {}})
    JaegerExporter()
"""


def test_opentelemetry_code_of_the_application_is_met(launcher: Launcher) -> None:
    """Each row of what docs/migrate.md says about it."""
    (launcher.folder / "met.py").write_text(CODE)
    _, findings = examine(launcher, "-A", "met")
    seen = "\n".join(of(findings, "application"))
    for part in (
        "OK met.py sets a tracer provider of its own",
        "OK met.py adds span processors",
        "OK met.py instruments Celery itself",
        "OK met.py opens CONSUMER spans",
        "OK met.py is traced by sentry-sdk or ddtrace",
        "OK met.py carries trace contexts of its own",
        "WARN met.py writes traceparent headers by hand",
        "WARN met.py imports the Jaeger exporter",
    ):
        assert part in seen


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_collector_with_tls(launcher: Launcher, is_trusted: bool) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    certificate = launcher.folder / "ca.pem"
    authority.cert_pem.write_to_path(certificate)
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(pair.private_key_pem.bytes(), chain)])
    with Receiver(credentials=credentials) as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        if is_trusted:
            environ["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(certificate)
        status, findings = examine(launcher, "-A", "shop", **environ)
    assert of(findings, "collector")[0].startswith("OK https://127.0.0.1:")
    (test_span,) = of(findings, "test span")
    assert (status, test_span.split()[0]) == ((0, "OK") if is_trusted else (1, "FAIL"))


@pytest.mark.parametrize(
    ("app", "level", "seen"),
    [
        ("no_such_app", "FAIL", "no_such_app does not import"),
        ("own_otel", "OK", "own_otel.py sets a tracer provider of its own"),
    ],
)
def test_the_application_is_looked_at(
    launcher: Launcher, app: str, level: str, seen: str
) -> None:
    _, findings = examine(launcher, "-A", app, OWN="instruments")
    assert any(
        each.startswith(f"{level} {seen}") for each in of(findings, "application")
    )
