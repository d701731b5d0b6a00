"""Exporters, protocols, TLS and headers by the standard variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme

from otel_celery_launcher.receiver.memory import Receiver
from tests.support.harness import Producer, assert_each_run_once, run_tasks
from tests.support.otlp_http import http_receiver

if TYPE_CHECKING:
    from tests.support.harness import Launcher

SITES = Path(__file__).parent / "sites" / "components"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_http_protobuf(
    launcher: Launcher, broker: str, pool: str, compression: str
) -> None:
    store = Receiver()
    with http_receiver(store) as url:
        _, producer = run_tasks(
            launcher, broker, "-P", pool,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_COMPRESSION=compression,
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=a%20b",
        )  # fmt: skip
        assert_each_run_once(store, producer)
        assert store.points  # what is kept was posted to /v1/metrics
    assert store.metadata[0]["path"] == "/v1/traces"
    assert store.metadata[0]["x-tenant"] == "a b"


def test_headers_and_gzip_over_grpc(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker, producer = run_tasks(
        launcher, broker,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cret,x-tenant=acme",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )  # fmt: skip
    assert_each_run_once(collector, producer)
    assert collector.metadata[0]["authorization"] == "Bearer s3cret"
    assert collector.metadata[0]["x-tenant"] == "acme"
    assert "s3cret" not in worker.output


def test_traces_own_variables_win(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    _, producer = run_tasks(
        launcher, broker,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="x-tenant=acme",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="3",
    )  # fmt: skip
    assert_each_run_once(collector, producer)
    assert collector.metadata[0]["x-tenant"] == "acme"


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mTLS"])
def test_tls(launcher: Launcher, tmp_path: Path, broker: str, mutual: bool) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    client = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes() if mutual else None,
        require_client_auth=mutual,
    )
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}
    if mutual:
        environ["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(tmp_path / "key.pem")
        environ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(tmp_path / "cert.pem")
    with Receiver(credentials=credentials) as receiver:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        _, producer = run_tasks(launcher, broker, **environ)
        assert_each_run_once(receiver, producer)


def test_console_prints_spans(launcher: Launcher, broker: str) -> None:
    worker, _ = run_tasks(
        launcher, broker, "-P", "solo", OTEL_TRACES_EXPORTER="console"
    )
    assert '"name": "run/shop.noop"' in worker.output


def test_none_exports_nothing(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker, _ = run_tasks(launcher, broker, OTEL_TRACES_EXPORTER="none")
    assert not collector.spans
    assert "no exporter" in worker.output


def test_installed_exporter_by_name_beside_otlp(
    launcher: Launcher, collector: Receiver, tmp_path: Path, broker: str
) -> None:
    """Any `opentelemetry_traces_exporter` entry point, and several at once."""
    names = tmp_path / "names"
    _, producer = run_tasks(
        launcher, broker,
        OTEL_TRACES_EXPORTER="otlp,to_file",
        PYTHONPATH=f"{SITES}:{launcher.environ['PYTHONPATH']}",
        SITE_FILE=str(names),
    )  # fmt: skip
    assert_each_run_once(collector, producer)
    assert names.read_text().split() == ["run/shop.noop"] * 5


def test_installed_instrumentations_are_on_before_the_application(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """SQL under the run span; Django's left off, a broken one named, tasks run."""
    worker = launcher.worker(PYTHONPATH=f"{SITES}:{launcher.environ['PYTHONPATH']}")
    producer = Producer(broker)
    producer.send("shop.query")
    producer.wait_for_results()
    worker.stop()
    run, sql = sorted(collector.spans, key=lambda span: span.start)
    assert run.name == "run/shop.query"
    assert (sql.name, sql.parent_id) == ("connect", run.span_id)
    assert "instrumented: celery" in worker.output
    assert "sqlite3" in worker.own_lines[0]
    assert "the instrumentation broken is off: RuntimeError: on purpose" in (
        worker.output
    )


def test_disabled_instrumentations_are_off(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker(
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="broken, sqlite3",
        OTEL_CELERY_LOG_FORMAT="json",
        PYTHONPATH=f"{SITES}:{launcher.environ['PYTHONPATH']}",
    )
    producer = Producer(broker)
    producer.send("shop.query")
    producer.wait_for_results()
    worker.stop()
    assert [span.name for span in collector.spans] == ["run/shop.query"]
    (line,) = worker.own_lines
    off = json.loads(line)["off"]
    assert off["broken"] == off["sqlite3"] == "disabled"
    assert "is off" not in worker.output


def test_ids_do_not_repeat_where_a_task_seeds_random(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    worker = launcher.worker("-c1")
    producer = Producer(broker)
    producer.send_many("shop.seeded", 10)
    producer.wait_for_results()
    worker.stop()
    assert len({span.span_id for span in collector.spans}) == 20


def test_sampler_and_limits_by_variables(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """Unsampled traces stay unsampled; new ones do not begin with ratio 0."""
    worker = launcher.worker(
        OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0"
    )
    producer = Producer(broker)
    producer.send("shop.noop")
    producer.app.send_task("shop.noop").get(timeout=20)
    producer.wait_for_results()
    worker.stop()
    assert_each_run_once(collector, producer)
    assert len(collector.spans) == 1


@pytest.mark.parametrize("detectors", ["process", "otel,*"])
def test_detectors_and_limits_by_variables(
    launcher: Launcher, collector: Receiver, broker: str, detectors: str
) -> None:
    """The process detector tells the child's pid, not the one it ran in."""
    _, producer = run_tasks(
        launcher, broker,
        OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=detectors,
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="3",
    )  # fmt: skip
    assert_each_run_once(collector, producer)
    for span in collector.spans:
        assert span.resource["process.runtime.name"] == "cpython"
        assert len(span.attributes) == 3
    pids = {span.resource["process.pid"] for span in collector.spans}
    parents = {span.resource["process.parent_pid"] for span in collector.spans}
    assert len(parents) == 1
    assert not pids & parents


def test_any_installed_propagator(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """B3 headers carry the trace from publish to run."""
    worker = launcher.worker(OTEL_PROPAGATORS="b3multi")
    Producer(broker).send("shop.publish_noop", headers={"traceparent": "none"})
    spans = collector.wait_for(lambda spans: len(spans) >= 3, 15)
    worker.stop()
    outer, publish, inner = sorted(spans, key=lambda span: span.start)
    assert (publish.parent_id, inner.parent_id) == (outer.span_id, publish.span_id)


def test_gevent_exports_over_http(launcher: Launcher, broker: str) -> None:
    """README: gevent with http/protobuf; its patched sockets do not block the hub."""
    store = Receiver()
    with http_receiver(store) as url:
        _, producer = run_tasks(
            launcher, broker, "-P", "gevent",
            count=200,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
        )  # fmt: skip
        assert_each_run_once(store, producer)
