"""Each file of deploy/ is read by the Collector itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.collector.engines import DEPLOY
from tests.deploy.test_deploy import COLLECTORS


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
