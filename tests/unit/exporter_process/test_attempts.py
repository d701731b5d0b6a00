"""A batch with many poisoned items: the others are sent soon, and nothing else is lost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from otel_celery_launcher.delivery.answers import Answer, Verdict
from otel_celery_launcher.exporter_process.attempts import Attempts, Delivery

GOOD = 10


@dataclass
class Collector:
    """Refuses each request with a poisoned item, and takes all others; counts pauses."""

    refused: int = 0
    taken: int = 0
    dropped: int = 0
    seconds: float = 0.0
    behind: list[str] = field(default_factory=lambda: ["good"] * GOOD)
    on_sent: Any = None

    def send(self, items: list[str]) -> Answer:
        if any("poison" in item for item in items):
            self.refused += 1
            return Answer(Verdict.REFUSED)
        self.taken += len(items)
        return Answer(Verdict.TAKEN)

    def close(self) -> None:
        """Do nothing."""

    def more(self) -> list[str]:
        found = [f"{name} {number}" for number, name in enumerate(self.behind)]
        self.behind = []
        return found

    def pause(self, seconds: float, _: bool) -> bool:
        self.seconds += seconds
        return self.taken < GOOD

    def count_refused(self, count: int) -> None:
        assert self.taken, "nothing is dropped while nothing is taken"
        self.dropped += count


@pytest.mark.parametrize("poisoned", [1, 20])
def test_what_is_good_behind_many_poisoned_items_goes_out_soon(poisoned: int) -> None:
    """Before, one batch in a hundred with twenty of them was stuck for two minutes."""
    random.seed(poisoned)
    waited = []
    for _ in range(100):
        collector = Collector()
        delivery = Delivery(
            note_error=lambda _: None,
            count_taken=lambda _: None,
            count_refused=collector.count_refused,
            more=collector.more,
            pause=collector.pause,
        )
        made: list[Any] = [collector]
        attempts = Attempts(made.pop, delivery)
        attempts.deliver([f"poison {number}" for number in range(poisoned)])
        assert collector.taken == GOOD
        waited.append(collector.seconds)
    assert max(waited) < 60
