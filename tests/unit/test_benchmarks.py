"""The page of the benchmarks says what was measured, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "bench")
    for name in ("report", "variants"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import report  # type: ignore[import-not-found]

    return report


def test_the_tables_and_the_picture_are_those_of_the_figures(report: Any) -> None:
    data = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert report.markdown(data) in PAGE
    picture = (ROOT / "docs" / "benchmarks.svg").read_text()
    assert report.svg(data["cpu"]["a no-op task"]) == picture


def test_the_readme_shows_the_figures_of_the_page() -> None:
    readme = (ROOT / "README.md").read_text()
    data = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    names = ("otel-celery", "opentelemetry-instrument")
    rows = [
        [scene, *(found[name] for name in names)]
        for scene, found in data["losses"].items()
        if all(name in found for name in names)
    ]
    assert len(rows) == 4
    cpu, life = data["cpu"]["a no-op task"], data["lifecycle"]
    added = [f"{cpu[name]['added'] + cpu[name]['exporter']:.0f} µs" for name in names]
    rows += [["CPU that it adds to a no-op task, with the exporter process", *added]]
    plain, *weights = (
        f"{sum(life[name]['memory']['8']):.0f} MB" for name in ("celery", *names)
    )
    rows += [[f"memory of a worker with 8 children; plain Celery: {plain}", *weights]]
    for row in rows:
        assert f"| {' | '.join(row)} |" in readme


def test_a_target_that_is_not_met_is_said_so(report: Any) -> None:
    data = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert "**not met**" in PAGE or all(each[3] for each in report.targets(data))
    data["exporter"]["received"] -= 1
    assert "**not met**" in report.target_table(data)
