"""A worker, the agent, the gateway, two samplers: what arrives, and where."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.collector.engines import errors_in
from tests.support.harness import Producer, hanging_process, wait_until
from tests.support.otlp_http import http_receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_celery_launcher.receiver.spans import ReceivedSpan
    from tests.collector.engines import Engines
    from tests.support.harness import Launcher, Process

# Five standard deviations of a binomial of 1,000 at 5 % on either side.
TWENTIETH = range(50 - 35, 50 + 35)


class RandomProducer(Producer):
    """Traces with random ids, which is what samplers count on."""

    def next_ids(self) -> tuple[str, str]:
        return secrets.token_hex(16), secrets.token_hex(8)

    def trace_of(self, task: str, *arguments: Any, **options: Any) -> str:
        """Publish a task; return its trace."""
        self.send(task, *arguments, **options)
        return list(self.parents)[-1]


class Chain:
    """Behind each sampler a receiver for Tempo; one for Jaeger, and for other signals."""

    def __init__(self, engines: Engines, stack: ExitStack) -> None:
        self.tempos = [stack.enter_context(Receiver()) for _ in range(2)]
        self.jaeger = stack.enter_context(Receiver())
        self.loki = Receiver()
        self.prometheus = Receiver()
        self.samplers = engines.samplers(
            *(each.endpoint for each in self.tempos),
            JAEGER_ENDPOINT=self.jaeger.endpoint,
        )
        self.gateway = engines.gateway(
            [each.address for each in self.samplers],
            LOKI_ENDPOINT=stack.enter_context(http_receiver(self.loki)),
            PROMETHEUS_ENDPOINT=stack.enter_context(http_receiver(self.prometheus)),
        )
        self.agent = engines.collector(
            "agent", OTEL_GATEWAY_ENDPOINT=self.gateway.address
        )

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of a trace; fails if both samplers had some."""
        found = [
            [span for span in each.spans if span.trace_id == trace_id]
            for each in self.tempos
        ]
        assert not all(found), "spans of a trace reached two samplers"
        return found[0] or found[1]

    def traces(self) -> set[str]:
        return {span.trace_id for each in self.tempos for span in each.spans}

    def wait_for_decisions(self, count: int) -> None:
        """Wait until the samplers have decided on that number of traces, and sent."""
        name = "otelcol_processor_tail_sampling_global_count_traces_sampled"
        wait_until(
            lambda: sum(each.metric(name) for each in self.samplers) >= count,
            30,
            f"the samplers decide on {count} traces",
        )

        def sent() -> bool:
            kept = {span.span_id for each in self.tempos for span in each.spans}
            exported = sum(
                each.metric("otelcol_exporter_sent_spans", exporter="otlp_grpc/tempo")
                for each in self.samplers
            )
            wanted = sum(
                each.metric(name, decision="sampled") for each in self.samplers
            )
            return len(self.traces()) >= wanted and len(kept) >= exported

        wait_until(sent, 20, "what is kept has arrived")


@pytest.fixture
def chain(engines: Engines) -> Iterator[Chain]:
    with ExitStack() as stack:
        chain = Chain(engines, stack)
        yield chain
        for each in (chain.agent, chain.gateway, *chain.samplers):
            assert errors_in(each.output) == []
            assert "deprecated" not in each.output


@pytest.fixture
def worker(launcher: Launcher, chain: Chain) -> Process:
    return launcher.worker(
        app="traces",
        OTEL_EXPORTER_OTLP_ENDPOINT=chain.agent.endpoint,
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )


def assert_whole(spans: list[ReceivedSpan], parent: str) -> None:
    """Each span is below another one, and one is below the publisher's."""
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans), "a span came twice"
    above = [span.parent_id for span in spans if span.parent_id not in ids]
    assert above == [parent], [(span.name, span.parent_id) for span in spans]


@pytest.mark.usefixtures("worker")
def test_traces_worth_keeping_arrive_whole_by_one_sampler(
    chain: Chain, broker: str
) -> None:
    producer = RandomProducer(broker)
    kept = {
        "lost": producer.trace_of("traces.hangs"),
        "failed": producer.trace_of("traces.fail"),
        "failed below": producer.trace_of("traces.canvas", "errback"),
        "over its limit": producer.trace_of("traces.limited"),
        "ended its process": producer.trace_of("traces.exits"),
        "slow": producer.trace_of("shop.nap", 5.2),
    }
    others = {
        "good": producer.trace_of("traces.canvas", "chord"),
        "retried": producer.trace_of("shop.flaky", 1),
        "rejected": producer.trace_of("traces.rejects"),
        "ignored": producer.trace_of("traces.ignores"),
        "expected": producer.trace_of("traces.expects"),
        "expired": producer.trace_of("shop.noop", expires=-1),
    }
    traces = kept | others
    os.kill(hanging_process(producer.app.backend.client), signal.SIGKILL)
    chain.wait_for_decisions(len(traces))
    arrived = {why: chain.of_trace(trace_id) for why, trace_id in traces.items()}
    for why, spans in arrived.items():
        if spans:
            assert_whole(spans, producer.parents[traces[why]])
    assert {why for why, spans in arrived.items() if spans} >= kept.keys()
    (lost,) = [span for span in arrived["lost"] if span.kind == "CONSUMER"]
    assert lost.attributes["celery.lost"] is True


@pytest.mark.usefixtures("worker")
def test_of_the_rest_a_twentieth_arrives_each_trace_whole(
    chain: Chain, broker: str
) -> None:
    producer = RandomProducer(broker)
    producer.send_many("shop.inner", 1000, 3)
    producer.wait_for_results()
    chain.wait_for_decisions(1000)
    kept = chain.traces()
    assert len(kept) in TWENTIETH
    for trace_id in kept:
        spans = chain.of_trace(trace_id)
        assert len(spans) == 4
        assert_whole(spans, producer.parents[trace_id])
    wait_until(
        lambda: {span.trace_id for span in chain.jaeger.spans} == kept,
        20,
        "Jaeger gets the same",
    )


@pytest.mark.usefixtures("worker")
def test_late_spans_follow_the_decision_on_their_trace(
    chain: Chain, broker: str
) -> None:
    producer = RandomProducer(broker)
    failed = producer.trace_of("traces.fail")
    good = [producer.trace_of("shop.noop") for _ in range(20)]
    chain.wait_for_decisions(21)
    dropped = sorted(set(good) - chain.traces())
    assert dropped

    def again(trace_id: str, task: str) -> None:
        parent = producer.parents[trace_id]
        headers = {"traceparent": f"00-{trace_id}-{parent}-01"}
        producer.send(task, headers=headers)

    again(dropped[0], "traces.fail")
    again(failed, "shop.noop")
    wait_until(
        lambda: len(chain.of_trace(failed)) == 2, 20, "a kept trace is completed"
    )
    late = "otelcol_processor_tail_sampling_early_releases_from_cache_decision"
    wait_until(
        lambda: sum(each.metric(late, sampled="false") for each in chain.samplers) == 1,
        20,
        "the decision on the dropped one is remembered",
    )
    assert chain.of_trace(dropped[0]) == [], "a dropped trace stays dropped"


@pytest.mark.usefixtures("worker")
def test_metrics_and_log_records_arrive(chain: Chain, broker: str) -> None:
    producer = RandomProducer(broker)
    producer.send_many("shop.noop", 50)
    producer.wait_for_results()

    def runs() -> float:
        return sum(
            point.count
            for point in chain.prometheus.last_points()
            if point.metric == "messaging.process.duration"
        )

    wait_until(lambda: runs() == 50, 20, "all runs are counted")
    wait_until(
        lambda: {each.trace_id for each in chain.loki.logs} >= set(producer.parents),
        20,
        "each run has a line in its trace",
    )
