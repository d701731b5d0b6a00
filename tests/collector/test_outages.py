"""Collectors that are away, killed, replaced or full: every span arrives."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.signals import TRACES
from tests.collector.engines import free_ports
from tests.support.harness import Producer, counters_of, wait_until
from tests.support.otlp_http import http_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.collector.engines import Engine, Engines
    from tests.support.harness import Launcher, Process


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    """What takes the spans in place of two samplers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Receiver()) for _ in range(2)]


@pytest.fixture
def loki() -> Receiver:
    return Receiver()


@pytest.fixture
def loki_endpoint(loki: Receiver) -> Iterator[str]:
    with http_receiver(loki) as url:
        yield url


def addresses(receivers: list[Receiver]) -> list[str]:
    return [f"127.0.0.1:{each.port}" for each in receivers]


def assert_all_arrive(
    producer: Producer, receivers: list[Receiver], worker: Process, *, twice: int = 0
) -> None:
    """Each run has arrived, as many spans as the worker has counted, few of them twice."""

    def spans() -> list[str]:
        return [span.span_id for each in receivers for span in each.spans]

    def traces() -> set[str]:
        return {span.trace_id for each in receivers for span in each.spans}

    wait_until(
        lambda: not producer.parents.keys() - traces(),
        60,
        f"{len(producer.parents)} runs arrive",
    )
    figures = counters_of(worker).of(TRACES)
    wait_until(
        lambda: figures.exported == len(producer.parents), 20, "the worker counts them"
    )
    assert len(set(spans())) == len(producer.parents)
    assert figures.lost == 0
    assert len(spans()) - len(set(spans())) <= twice


def agent_worker(launcher: Launcher, agent: Engine, **environ: str) -> Process:
    return launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=agent.endpoint, **environ)


def test_the_agents_disk_outlives_an_outage_and_a_kill(
    engines: Engines, launcher: Launcher, broker: str, receivers: list[Receiver]
) -> None:
    ports = free_ports()
    gateway_ports = free_ports()
    place = {
        "OTEL_GATEWAY_ENDPOINT": f"127.0.0.1:{gateway_ports['grpc']}",
        "OTEL_QUEUE_DIRECTORY": str(engines.folder / "disk"),
    }
    agent = engines.collector("agent", ports=ports, **place)
    worker = agent_worker(launcher, agent)
    producer = Producer(broker)
    producer.send_many("shop.noop", 500)
    producer.wait_for_results()
    counters = counters_of(worker)
    wait_until(lambda: counters.of(TRACES).exported == 500, 20, "the agent has all")
    agent.stop(signal.SIGKILL)
    agent = engines.collector("agent", ports=ports, **place)
    producer.send_many("shop.noop", 100)
    producer.wait_for_results()
    engines.gateway(addresses(receivers), ports=gateway_ports)
    assert_all_arrive(producer, receivers, worker, twice=500)


def wait_for_more(count: Callable[[], int], more: int) -> None:
    """Wait until something has grown."""
    enough = count() + more
    wait_until(lambda: count() >= enough, 60, f"there are {enough}")


def test_a_gateway_is_replaced_under_load(
    engines: Engines,
    launcher: Launcher,
    broker: str,
    receivers: list[Receiver],
    loki: Receiver,
    loki_endpoint: str,
) -> None:
    """Agents come back after `max_connection_age`, and what waits is on its disk."""
    age = {"max_connection_age": "1s", "max_connection_age_grace": "1s"}
    short = {
        "receivers": {
            "otlp": {"protocols": {"grpc": {"keepalive": {"server_parameters": age}}}}
        }
    }
    place = {
        "OTEL_QUEUE_DIRECTORY": str(engines.folder / "disk"),
        "LOKI_ENDPOINT": loki_endpoint,
    }
    ports = free_ports()
    gateway = engines.gateway(addresses(receivers), short, ports, **place)
    agent = engines.collector("agent", OTEL_GATEWAY_ENDPOINT=gateway.address)
    worker = agent_worker(launcher, agent, OTEL_LOGS_EXPORTER="otlp")
    producer = Producer(broker)
    stop = threading.Event()

    def arrived() -> int:
        return sum(len(each.spans) for each in receivers)

    def load() -> None:
        while not stop.is_set():
            producer.send_many("shop.noop", 50)
            stop.wait(0.1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            wait_for_more(arrived, 1000)  # and connections are closed for their age
            gateway.stop(number)
            wait_for_more(lambda: len(producer.parents), 100)
            gateway = engines.gateway(addresses(receivers), short, ports, **place)
    finally:
        stop.set()
        thread.join(60)
    producer.wait_for_results()
    assert_all_arrive(producer, receivers, worker, twice=500)
    wait_until(
        lambda: {each.trace_id for each in loki.logs} >= producer.parents.keys(),
        60,
        "each run's lines arrive",
    )


def test_a_collector_that_refuses_for_its_memory_is_waited_for(
    engines: Engines, launcher: Launcher, broker: str, receivers: list[Receiver]
) -> None:
    """The worker keeps what the agent's memory limiter refuses, and says so once."""
    ports = free_ports()
    gateway = engines.gateway(addresses(receivers))
    full = {
        "processors": {
            "memory_limiter": {
                "limit_mib": 2,
                "spike_limit_mib": 1,
                "check_interval": "100ms",
            }
        }
    }
    place = {"OTEL_GATEWAY_ENDPOINT": gateway.address}
    agent = engines.collector("agent", full, ports, **place)
    worker = agent_worker(launcher, agent)
    producer = Producer(broker)
    producer.send_many("shop.noop", 500)
    producer.wait_for_results()
    refused = "otelcol_receiver_refused_spans"
    wait_until(lambda: agent.metric(refused) > 0, 20, "the agent refuses")
    worker.wait_for_output(": spans do not")
    agent.stop()
    engines.collector("agent", None, ports, **place)
    assert_all_arrive(producer, receivers, worker)
    worker.wait_for_output("spans reach")
    said = [line for line in worker.own_lines if "spans" in line]
    # That they wait, and why; and that they reach the collector again.
    assert len(said) == 2, said
    assert "the collector accepts no more for now" in said[0]
