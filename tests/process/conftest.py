"""Fixtures of the process tests: both ways to export, both brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.support.servers import producer_on, start_browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.support.harness import Producer

# Broker and mode; test_matrix.py has both modes on Redis.
SETTINGS = ["process on redis", "process on rabbitmq", "inline on rabbitmq"]


@pytest.fixture(params=["process", "inline"])
def mode(request: pytest.FixtureRequest, child_environ: dict[str, str]) -> str:
    child_environ["OTEL_CELERY_EXPORT"] = request.param
    return str(request.param)


@pytest.fixture(params=SETTINGS)
def producer(
    request: pytest.FixtureRequest,
    child_environ: dict[str, str],
    broker: str,
    tmp_path: Path,
) -> Producer:
    """Publishes on either broker; results come through Redis."""
    (tmp_path / "tmp").mkdir()
    child_environ["TMPDIR"] = str(tmp_path / "tmp")
    mode, _, transport = request.param.partition(" on ")
    child_environ["OTEL_CELERY_EXPORT"] = mode
    return producer_on(transport, request, child_environ, broker)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = start_browser(playwright)
        yield found
        found.close()
