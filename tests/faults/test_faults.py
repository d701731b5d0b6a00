"""A short run of the fault driver; `make faults` runs it for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.driver import Driver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timed
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
def test_every_task_is_accounted_for(tmp_path: Path, seed: int) -> None:
    """What has run has one span at the collector, or stands in the drop counters."""
    account = Driver(tmp_path, seed, 20).run()
    print(account)
    assert account.ended > 100
    assert account.missing <= account.counted
    assert account.untold <= account.counted
    assert account.twice == 0
    if not account.faults["exporter killed"] and not account.faults["exporter stopped"]:
        assert account.missing == 0
