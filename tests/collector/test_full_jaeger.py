"""What Jaeger answers is what `otel-celery tail` shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.collector.engines import answer, jaeger
from tests.collector.test_chain import RandomProducer
from tests.support.harness import wait_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from tests.collector.engines import Engines
    from tests.support.harness import Launcher


def test_jaeger_answers_the_trace_that_tail_shows(
    engines: Engines, launcher: Launcher, broker: str
) -> None:
    """By worker, agent, gateway and sampler, which sends to both."""
    port = free_port()
    tail = launcher.start(
        "tail", "--json", "--port", str(port), "--http-port", str(free_port())
    )
    tail.wait_for_output("OTEL_EXPORTER_OTLP_ENDPOINT")
    backend = jaeger(engines)
    tails = [f"127.0.0.1:{port}"] * 2
    samplers = engines.samplers(*tails, JAEGER_ENDPOINT=backend.address)
    gateway = engines.gateway([each.address for each in samplers])
    agent = engines.collector("agent", OTEL_GATEWAY_ENDPOINT=gateway.address)
    launcher.worker(app="traces", OTEL_EXPORTER_OTLP_ENDPOINT=agent.endpoint)
    producer = RandomProducer(broker)
    trace_id = producer.trace_of("traces.canvas", "errback")

    def shown() -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in tail.output.splitlines(keepends=True)
            if trace_id in line and line.endswith("\n")
        ]

    wait_until(shown, 30, "tail shows the trace")
    base = f"http://127.0.0.1:{backend.ports['query']}/api"

    def answered() -> list[dict[str, Any]]:
        found = json.loads(answer(f"{base}/traces/{trace_id}") or '{"data": []}')
        return [span for trace in found["data"] for span in trace["spans"]]

    wait_until(lambda: len(answered()) == 5, 30, "Jaeger has the trace")
    spans = answered()
    assert {
        (span["spanID"], span["operationName"], span["references"][0]["spanID"])
        for span in spans
    } == {
        (span["span_id"], span["name"], span["parent_id"])
        for span in shown()[-1]["spans"]
    }
    failed = {
        span["operationName"]
        for span in spans
        if {"key": "error", "type": "bool", "value": True} in span["tags"]
    }
    assert failed == {"run/traces.fail"}
    assert json.loads(answer(f"{base}/services") or "")["data"] == ["shop-worker"]
