"""Each file of deploy/ is read by the Collector itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from otel_celery_launcher.receiver.memory import Receiver
from tests.collector.engines import DEPLOY
from tests.deploy.test_deploy import COLLECTORS
from tests.support.documented import blocks
from tests.support.harness import wait_until
from tests.support.servers import free_port, is_open


def said_by_collector(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [os.environ["TEST_COLLECTOR"], *map(str, words)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_collector_reads_it(name: str) -> None:
    files = [f"--config={DEPLOY / path}" for path in COLLECTORS[name]]
    assert said_by_collector("validate", *files) == (0, "")


def sampler_with_a_rate_for_one_task(**changes: object) -> dict[str, Any]:
    """Return sampler.yaml with the policies of the README instead of ``the-rest``."""
    readme = (DEPLOY / "collector/README.md").read_text()
    (block,) = [text for language, text in blocks(readme) if language == "yaml"]
    config: dict[str, Any] = yaml.safe_load(
        (DEPLOY / "collector/sampler.yaml").read_text()
    )
    sampling = config["processors"]["tail_sampling"] | changes
    kept = [each for each in sampling["policies"] if each["name"] != "the-rest"]
    sampling["policies"] = kept + yaml.safe_load(block)["policies"]
    config["processors"]["tail_sampling"] = sampling
    return config


def test_the_policies_of_the_readme(tmp_path: Path) -> None:
    """Errors of both, few heartbeats, more of the others: as many as the odds say."""
    port, runs = free_port(), 1_500
    with Receiver() as receiver:
        config = sampler_with_a_rate_for_one_task(decision_wait="2s")
        config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = (
            f"127.0.0.1:{port}"
        )
        config["extensions"] = {}
        config["service"] = {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["tail_sampling"],
                    "exporters": ["otlp_grpc/tempo"],
                }
            },
        }
        config["exporters"]["otlp_grpc/tempo"]["endpoint"] = (
            f"127.0.0.1:{receiver.port}"
        )
        file = tmp_path / "sampler.yaml"
        file.write_text(yaml.safe_dump(config))
        with subprocess.Popen(
            [os.environ["TEST_COLLECTOR"], f"--config={file}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as collector:  # fmt: skip
            wait_until(lambda: is_open(port), 20, "the collector listens")
            send_runs(port, runs)
            # Errors alone are a hundredth; of the rest, a tenth of the others at least.
            wait_until(lambda: len(receiver.spans) >= runs * 0.1, 20, "it has decided")
            collector.terminate()  # which sends what it has decided
        heartbeats = sum(span.name == "run/health.beat" for span in receiver.spans)
        others = sum(span.name == "run/orders.pay" for span in receiver.spans)
    errors = runs // 100
    for found, share in ((heartbeats, 0.01), (others, 0.1)):
        expected = errors + share * (runs - errors)
        deviation = (share * (1 - share) * runs) ** 0.5
        assert abs(found - expected) < 5 * deviation, (found, expected)


def send_runs(port: int, count: int) -> None:
    """Send runs of two tasks; each hundredth fails."""
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2 * count))
    tracer = provider.get_tracer("test")
    for number in range(count):
        for name in ("health.beat", "orders.pay"):
            attributes = {"celery.task_name": name}
            with tracer.start_as_current_span(
                f"run/{name}", attributes=attributes
            ) as span:
                if number % 100 == 0:
                    span.set_status(Status(StatusCode.ERROR))
    provider.shutdown()


def test_a_misspelt_key_is_found() -> None:
    """The control."""
    status, said = said_by_collector(
        "validate",
        f"--config={DEPLOY / 'collector/agent.yaml'}",
        "--config=yaml:exporters::otlp_grpc/gateway::endpiont: here",
    )
    assert status == 1
    assert "endpiont" in said


def test_a_distribution_of_ones_own_needs_no_more() -> None:
    """tests/collector/main.go has what is named here, and nothing else."""
    status, said = said_by_collector("components")
    assert status == 0
    found = {
        section: {each["name"] for each in items}
        for section, items in yaml.safe_load(said).items()
        if section in ("receivers", "processors", "exporters", "extensions")
    }
    named: dict[str, set[str]] = {section: set() for section in found}
    for paths in COLLECTORS.values():
        for path in paths:
            config = yaml.safe_load((DEPLOY / path).read_text())
            for section in named:
                named[section] |= {
                    each.partition("/")[0] for each in config.get(section) or ()
                }
    assert found == named


def test_its_version_is_that_of_the_images() -> None:
    _, said = said_by_collector("--version")
    (version,) = re.findall(r"\d+\.\d+\.\d+", said)
    text = (DEPLOY / "compose/compose.yaml").read_text()
    assert f"opentelemetry-collector-contrib:{version}" in text
    modules = (Path(__file__).parent / "go.mod").read_text()
    assert f"go.opentelemetry.io/collector/otelcol v{version}" in modules
    contrib = re.findall(r"collector-contrib/\w+/\S+ v(\S+)\n", modules)
    assert set(contrib) == {version}
