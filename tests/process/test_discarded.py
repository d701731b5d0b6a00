"""Tasks that never run leave a short span in their producer's trace, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.harness import Producer, run_some, runs, wait_until
from tests.support.servers import producer_on

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.support.harness import Launcher, Process

REASONS = ("revoked", "expired", "unknown", "rejected", "undecodable")


@pytest.fixture(params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


@pytest.fixture(params=["process on redis", "inline on redis", "process on rabbitmq"])
def producer(
    request: pytest.FixtureRequest, child_environ: dict[str, str], broker: str
) -> Producer:
    mode, _, transport = request.param.partition(" on ")
    child_environ["OTEL_CELERY_EXPORT"] = mode
    return producer_on(transport, request, child_environ, broker)


def publish(producer: Producer, worker: Process, reason: str) -> None:
    """Publish a task that will not run for this reason."""
    if reason == "revoked":
        result = producer.send("shop.noop", countdown=2)
        worker.wait_for_output(" received")
        producer.app.control.revoke(result.id)
    elif reason == "expired":
        producer.send("shop.noop", expires=-10)
    elif reason == "unknown":
        producer.send("nobody.knows")
    else:
        trace_id, span_id = f"{1:032x}", f"{1:016x}"
        producer.parents[trace_id] = span_id
        headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        body: object = {"hello": 1}
        options = {"serializer": "json"}
        if reason == "undecodable":
            headers |= {"task": "shop.noop", "id": "bad", "lang": "py"}
            body = b"{not json"
            options = {"content_type": "application/json", "content_encoding": "utf-8"}
        with producer.app.connection_for_write() as connection:
            connection.Producer().publish(
                body, routing_key="celery", headers=headers, **options
            )


@pytest.mark.parametrize("reason", REASONS)
def test_a_task_that_never_runs_leaves_a_span(
    launcher: Launcher, collector: Receiver, producer: Producer, reason: str
) -> None:
    worker = launcher.worker("-c1")
    publish(producer, worker, reason)

    def told() -> list[ReceivedSpan]:
        return [span for span in runs(collector.spans) if "run/" not in span.name]

    wait_until(told, 15, "the span is there")
    producer.results.clear()
    run_some(producer, 3)
    worker.stop()
    (span,) = told()
    (trace_id, parent_id) = next(iter(producer.parents.items()))
    assert (span.trace_id, span.parent_id) == (trace_id, parent_id)
    assert span.attributes["celery.action"] == reason
    assert span.name.startswith(f"{reason}/")
    assert span.is_error == (reason in ("unknown", "rejected", "undecodable"))
    assert len(runs(collector.spans)) == 4


@pytest.mark.parametrize(
    ("task", "state", "is_error"),
    [
        ("traces.rejects", "REJECTED", False),
        ("traces.ignores", "IGNORED", False),
        ("traces.expects", "FAILURE", False),
        ("traces.fail", "FAILURE", True),
    ],
)
def test_endings_keep_their_meaning(
    launcher: Launcher,
    collector: Receiver,
    broker: str,
    task: str,
    state: str,
    is_error: bool,
) -> None:
    """`Reject`, `Ignore` and exceptions in `throws` are no errors."""
    worker = launcher.worker("-c1", app="traces")
    producer = Producer(broker)
    producer.send(task)
    wait_until(lambda: runs(collector.spans), 15, "it has run")
    worker.stop()
    (run,) = runs(collector.spans)
    assert (run.attributes["celery.state"], run.is_error) == (state, is_error)


def test_a_worker_tells_its_status(
    launcher: Launcher, collector: Receiver, broker: str, mode: str
) -> None:
    """`otel-celery inspect otel_status`."""
    worker = launcher.worker("-n", "w1@x")
    producer = Producer(broker)
    run_some(producer)
    collector.wait_for(lambda spans: len(runs(spans)) >= 20, 10)

    def exported() -> bool:
        found = launcher.run("-A", "shop", "inspect", "otel_status", "-j")
        assert found.returncode == 0, found
        assert '"w1@x"' in found.stdout
        assert f'"mode": "{mode}"' in found.stdout
        assert '"service_name": "shop-worker"' in found.stdout
        return '"exported": 20' in found.stdout

    wait_until(exported, 20, "it tells that all are exported")
    worker.stop()
