"""A short run of the fault driver; `make faults` runs it for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from otel_celery_launcher.signals import TRACES
from tests.faults.driver import Driver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timed
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
def test_every_task_is_accounted_for(tmp_path: Path, seed: int) -> None:
    """What has run has a span at the collector, and only what was in flight has two."""
    account = Driver(tmp_path, seed, 20).run()
    print(account)
    assert account.ended > 100
    assert account.missing <= account.counted
    assert account.untold <= account.counted
    if not account.faults["exporter stopped"]:
        # Else a killed child may have had spans for which the kernel's buffer, which
        # nobody read, had no room.
        assert account.missing == account.untold == 0
    assert account.twice <= TRACES.batch * account.exporter_deaths
