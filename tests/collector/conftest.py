"""Collected by ``make test-collectors``, which builds what these tests run.

Jaeger, Prometheus and the load are in ``test_full_*``, for ``make test-collectors-full``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.collector.engines import Engines

collect_ignore_glob = []
if "TEST_COLLECTOR" not in os.environ:
    collect_ignore_glob.append("test_*")
if "TEST_JAEGER" not in os.environ:
    collect_ignore_glob.append("test_full_*")


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    """Starts programs; ends what a test leaves."""
    from tests.collector.engines import Engines

    folder = tmp_path / "engines"
    folder.mkdir()
    with Engines(folder) as started:
        yield started
