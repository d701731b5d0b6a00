"""The dashboard and the alerts in a real Prometheus, after a load that is known."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.receiver.memory import Receiver
from tests.collector.engines import DEPLOY, answer, prometheus
from tests.support.documented import blocks
from tests.support.harness import Producer, hanging_process, run_some, wait_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.collector.engines import Engine, Engines
    from tests.support.harness import Launcher

INTERVAL_SECONDS = 1
# What Grafana makes of a query's interval of one minute, the workers' default: four of it.
RATE_SECONDS = 4 * INTERVAL_SECONDS


class Prometheus:
    """Questions to the server."""

    def __init__(self, engine: Engine) -> None:
        self._base = f"http://127.0.0.1:{engine.ports['http']}/api/v1/"

    def get(self, path: str, **query: object) -> Any:
        words = urllib.parse.urlencode(query)
        found = json.loads(answer(f"{self._base}{path}?{words}") or "{}")
        assert found["status"] == "success", found
        return found["data"]

    def values(
        self, query: str, at: float | None = None
    ) -> dict[tuple[str, ...], float]:
        """Return the value for each set of labels' values, sorted by the labels."""
        given = {} if at is None else {"time": at}
        return {
            tuple(value for _, value in sorted(each["metric"].items())): float(
                each["value"][1]
            )
            for each in self.get("query", query=query, **given)["result"]
        }


def panels(seconds: int = RATE_SECONDS) -> dict[str, list[str]]:
    """Return the queries of each panel, as Grafana sends them.

    Args:
        seconds: The range of rates and counts; of a graph of hours, it is its step.
    """
    text = (DEPLOY / "compose/grafana/dashboards/celery.json").read_text()
    return {
        panel["title"]: [
            target["expr"]
            .replace("$task", ".*")
            .replace("$__rate_interval", f"{seconds}s")
            for target in panel["targets"]
        ]
        for panel in json.loads(text)["panels"]
    }


def test_alerts() -> None:
    done = subprocess.run(
        [os.environ["TEST_PROMTOOL"], "test", "rules",
         Path(__file__).parent / "alerts.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def documented_queries() -> list[str]:
    """Return the PromQL of the documents: blocks, and the table of questions."""
    found: list[str] = []
    for page in sorted((DEPLOY.parent / "docs").glob("*.md")):
        text = page.read_text()
        found += [block for language, block in blocks(text) if language == "promql"]
        if page.name == "metrics.md":
            found += re.findall(r"^\| [^|]+\? \| `(.+)` \|$", text, re.MULTILINE)
    return found


def test_the_queries_of_the_documents(tmp_path: Path) -> None:
    """Prometheus reads each of them, as a rule that records it."""
    queries = documented_queries()
    assert len(queries) >= 18
    rules = [
        {"record": f"question:{number}", "expr": query}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}))
    done = subprocess.run(
        [os.environ["TEST_PROMTOOL"], "check", "rules", file],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.fixture
def measured(engines: Engines, launcher: Launcher, broker: str) -> Iterator[Prometheus]:
    """A worker and beat over agent and gateway; the load has come and gone."""
    port = free_port()
    with Receiver() as receiver:
        gateway = engines.gateway(
            [f"127.0.0.1:{receiver.port}"],
            PROMETHEUS_ENDPOINT=f"http://127.0.0.1:{port}/api/v1/otlp",
        )
        agent = engines.collector("agent", OTEL_GATEWAY_ENDPOINT=gateway.address)
        server = Prometheus(prometheus(engines, agent, gateway, port=port))
        launcher.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": agent.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": str(INTERVAL_SECONDS * 1000),
        }
        launcher.worker("-c2", app="traces")
        launcher.start("-A", "shop", "beat", "-l", "INFO")
        yield server


def test_each_panel_answers_with_what_happened(
    measured: Prometheus, broker: str
) -> None:
    """Whole numbers where events are counted, each from the very first on."""
    producer = Producer(broker)
    producer.send("shop.nap", 0.25)  # from here on its series are there
    run_some(producer, 1, "shop.publish_noop")
    wait_until(
        lambda: measured.values("messaging_process_duration_seconds_count"),
        20,
        "the first value is there",
    )
    producer.send_many("traces.fail", 7)
    producer.send_many("traces.exits", 2)
    producer.send_many("shop.nap", 4, 0.25)
    late = producer.send("shop.noop", countdown=2)
    producer.app.control.revoke(late.id)
    wait_until(late.ready, 20, "it was revoked")
    producer.wait_for_results()
    done = time.time()
    runs = Counter({"traces.fail": 7, "traces.exits": 2, "shop.nap": 4})
    counted = 'messaging_process_duration_seconds_count{celery_task_name!="shop.noop"}'
    wait_until(
        lambda: sum(measured.values(f"sum({counted})").values()) == runs.total() + 2,
        20,
        "all runs are counted",
    )
    wait_until(
        lambda: measured.values("celery_tasks_unrun_total"), 20, "so is what never ran"
    )

    def highest(title: str, number: int = 0) -> dict[tuple[str, ...], float]:
        """Return what a panel's query showed at most, asked for each second."""
        query = panels()[title][number]
        found: dict[tuple[str, ...], float] = {}
        for second in range(-15, int(time.time() - done) + 2):
            for key, value in measured.values(query, done + second).items():
                if not math.isnan(value):  # a quantile of nothing
                    found[key] = max(value, found.get(key, value))
        return found

    counts = panels(600)
    killed, unrun = counts["Killed tasks, and tasks that never run"]
    for (query,), expected in (
        (
            counts["Failures"],
            {
                ("traces.fail", "ValueError"): 7,
                ("traces.exits", "billiard.exceptions.WorkerLostError"): 2,
            },
        ),
        ([killed], {("traces.exits",): 2}),
        ([unrun], {("revoked", "shop.noop"): 1}),
        (counts["Pool processes that ended"], {("exit",): 2}),
    ):
        assert measured.values(query) == expected, query
    (throughput,) = panels()["Throughput"]
    wait_until(
        lambda: 1.6 < measured.values(throughput).get(("shop.noop",), 0) < 2.4,
        20,
        "beat publishes a task each half second",
    )
    slowest = highest("Run time, 95th percentile")[("shop.nap",)]
    assert 0.25 <= slowest <= 0.5  # the bucket of 0.25 s to 0.5 s
    assert 0 < highest("Queue wait, 95th percentile")[("shop.noop",)] < 1
    assert highest("Queue depth").keys() == {("celery",)}
    assert 0 < highest("Utilisation of the pools")[("shop-worker",)] <= 1
    assert highest("Tasks in the workers").keys() == {
        ("active",), ("reserved",), ("scheduled",)
    }  # fmt: skip
    assert ("shop.noop",) in highest("Publishes and their failures")
    assert highest("Beat").keys() == {("shop-beat",)}
    assert highest("Beat", 1)[()] < 1
    assert highest("CPU of the workers").keys() == {
        ("main",), ("children",), ("exporter",)
    }  # fmt: skip
    lost = panels()["Telemetry that is lost"]
    wait_until(
        lambda: all({*measured.values(query).values()} == {0} for query in lost),
        20,
        "the last panel says that nothing is lost",
    )


def test_orphans_killed_tasks_and_exemplars(measured: Prometheus, broker: str) -> None:
    producer = Producer(broker)
    for _ in range(3):
        producer.app.send_task("shop.noop")  # without a trace
    producer.send("traces.fail")
    (trace_id,) = producer.parents
    producer.send("traces.hangs")
    os.kill(hanging_process(producer.app.backend.client), signal.SIGKILL)
    killed = 'messaging_process_duration_seconds_count{celery_task_name="traces.hangs"}'
    wait_until(lambda: measured.values(killed), 20, "the killed run is counted")
    (orphans,) = panels(600)["Orphans"]
    wait_until(
        lambda: measured.values(orphans) == {("shop.noop",): 3},
        20,
        "orphans are counted",
    )

    def firing() -> set[str]:
        return {
            each["labels"]["alertname"]
            for each in measured.get("alerts")["alerts"]
            if each["state"] == "firing"
        }

    wait_until(lambda: "CeleryTasksKilled" in firing(), 20, "the first kill alerts")

    def with_exemplar() -> set[str]:
        found = measured.get(
            "query_exemplars",
            query="messaging_process_duration_seconds_bucket",
            start=time.time() - 60,
            end=time.time(),
        )
        return {
            each["labels"]["trace_id"]
            for series in found
            for each in series["exemplars"]
        }

    wait_until(
        lambda: trace_id in with_exemplar(), 20, "the failure leads to its trace"
    )


def test_a_histogram_that_is_one_series(
    engines: Engines, launcher: Launcher, broker: str
) -> None:
    """For fleets with more series than Prometheus holds: deploy/collector/README.md."""
    port = free_port()
    with Receiver() as receiver:
        gateway = engines.gateway(
            [f"127.0.0.1:{receiver.port}"],
            PROMETHEUS_ENDPOINT=f"http://127.0.0.1:{port}/api/v1/otlp",
        )
        server = Prometheus(prometheus(engines, gateway, port=port))
        launcher.worker(
            OTEL_EXPORTER_OTLP_ENDPOINT=gateway.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
            OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=(
                "base2_exponential_bucket_histogram"
            ),
        )
        run_some(Producer(broker), 4, "shop.query")
        name = 'messaging_process_duration_seconds{celery_task_name="shop.query"}'
        count = f"histogram_count({name})"
        wait_until(
            lambda: [*server.values(count).values()] == [4], 20, "all are counted"
        )
        (median,) = server.values(f"histogram_quantile(0.5, {name})").values()
        assert 0 < median < 1
        assert server.values(name.replace("seconds{", "seconds_bucket{")) == {}
