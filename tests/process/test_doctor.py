"""``otel-celery doctor``: what it finds, where it came from, what to type next."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import redis
import trustme
from celery import Celery

from otel_celery_launcher.doctor import broker as doctor_broker
from otel_celery_launcher.doctor import installed
from otel_celery_launcher.doctor.pool import check_pool
from otel_celery_launcher.receiver import Receiver
from otel_celery_launcher.roles import read_command_line
from otel_celery_launcher.settings import Settings
from tests.conftest import free_port, producer_on
from tests.documented import is_documented
from tests.harness import CELERY, Producer, run_some

if TYPE_CHECKING:
    from tests.harness import Launcher


def examine(
    launcher: Launcher, *options: str, **environ: str
) -> tuple[int, list[dict[str, Any]]]:
    """Return exit status and findings."""
    done = launcher.run("doctor", "--json", "--wait", "2", *options, **environ)
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == done.returncode
    for each in found["findings"]:
        known = each["level"] == "OK" or is_documented(each["seen"], each["check"])
        assert known or is_documented(each["seen"]), each
    return done.returncode, found["findings"]


def of(findings: list[dict[str, Any]], check: str) -> list[str]:
    return [
        f"{each['level']} {each['seen']}" for each in findings if each["check"] == check
    ]


def test_all_is_well(launcher: Launcher, collector: Receiver) -> None:
    """Collector, broker and application are there; nothing is left in the broker."""
    done = launcher.run("doctor", "-A", "shop", "--wait", "2")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 failed, 0 warnings")
    (span,) = collector.spans
    assert (span.name, span.service) == ("otel-celery doctor", "shop-worker")


@pytest.mark.parametrize(
    ("environ", "status", "check", "seen", "next_"),
    [
        ({"OTEL_PROPAGATORS": "bagage"}, 78, "variables", "'bagage' is not", "correct"),
        ({"OTEL_CELERY_EXPROT": "inline"}, 78, "variables", "known to nobody", "OTEL_CELERY_EXPORT"),
        ({"OTEL_PROPAGATORS": "b3"}, 0, "export", "tracecontext and baggage ends here", "OTEL_PROPAGATORS="),
        ({"OTEL_SDK_DISABLED": "true"}, 0, "disabled", "nothing is traced", ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, 0, "collector", "no OTLP exporter: none", ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:CLOSED"}, 1, "endpoint", "no scheme", ""),
        ({"https_proxy": "http://proxy:3128"}, 1, "endpoint", "goes through the proxy of https_proxy", "no_proxy=127.0.0.1"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, 0, "variables", "not handled", "unset"),
        ({"OTEL_BSP_EXPORT_TIMEOUT": "5"}, 0, "variables", "read by nobody", "unset"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://no.such.host.invalid:4317"}, 1, "collector", "is not known here", "correct"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "CLOSED"}, 1, "collector", "Connection refused", "start the collector"),
        ({"SHOP_BROKER": "redis://127.0.0.1:CLOSED/0"}, 1, "broker", "OperationalError", "start the broker"),
        ({"SHOP_BROKER": "nosuch://host"}, 1, "broker", "cannot be read", "install its transport"),
        ({"SHOP_BROKER": "redis://:pass/word@127.0.0.1/0"}, 1, "broker", "cannot be read: ValueError", "correct"),
        ({"OTEL_SERVICE_NAMESPACE": "shop"}, 0, "variables", "known to nobody", "unset OTEL_SERVICE_NAMESPACE"),
        ({"OTEL_CELERY_SERVICE_NAME": "", "OTEL_SERVICE_NAME": "config"}, 0, "service name", "says nothing", "OTEL_SERVICE_NAME"),
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
            "OK prefork on linux, spans leave process",
        ),
        ("solo", "prefork", "inline", "linux", "OK solo on linux, spans leave inline"),
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
    assert found.level == "OK" or is_documented(found.seen, "pool")


def test_a_broker_that_says_nothing_is_not_waited_for(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        broker = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        start = time.monotonic()
        status, findings = examine(launcher, "-A", "shop", SHOP_BROKER=broker)
    assert status == 1
    assert "no answer" in of(findings, "broker")[0]
    assert time.monotonic() - start < 20


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
    assert line.startswith("FAIL broken does not import: ")
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
    assert all(is_documented(seen, "versions") for seen in bad)
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
    if "error code: StatusCode" not in line:  # older exporters log the status alone
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
    assert ours.startswith("OK ours@x, service 'shop-worker', exported")
    assert plain == "WARN plain@x was not started by otel-celery"


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
