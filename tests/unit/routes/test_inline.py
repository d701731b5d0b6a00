"""Inline export: what threads and forks may do to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.routes.delivery_log import DeliveryLog
from otel_celery_launcher.routes.inline import InlineRoute, InlineSignal
from otel_celery_launcher.routes.route import Outgoing
from otel_celery_launcher.signals import TRACES

THREADS, ITEMS = 4, 5


class Queue:
    """As the SDK's; hands on at once."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def put(self, item: str) -> None:
        self._exporter.export([item])

    def shutdown(self) -> None:
        pass


class Exporter:
    def __init__(self) -> None:
        self.items: list[str] = []

    def export(self, items: Sequence[Any]) -> bool:
        self.items += items
        return True

    def shutdown(self) -> None:
        pass


def test_items_of_other_threads_wait_while_the_first_exporter_is_made() -> None:
    """Each comes once, through one exporter."""
    counters, made = Counters(), []
    is_making, may_go_on = threading.Event(), threading.Event()

    def make() -> Exporter:
        is_making.set()
        assert may_go_on.wait(10)
        made.append(Exporter())
        return made[-1]

    outgoing = Outgoing(
        signal=TRACES, encode=str.encode, make_queue=Queue, put=Queue.put
    )
    route = InlineRoute(
        [InlineSignal(outgoing=outgoing, exporters=[make], pending_limit=100)],
        counters,
        DeliveryLog(TRACES, counters, ProcessClaim(), ""),
        holds=False,
        forks_safely=True,
    )

    def hand_over(name: str) -> None:
        for number in range(ITEMS):
            item = f"{name} {number}"
            route.hand_over(TRACES, item, Resource({}), ends_work=True, ends_task=False)

    first = threading.Thread(target=hand_over, args=("first",))
    first.start()
    assert is_making.wait(10)
    others = [
        threading.Thread(target=hand_over, args=(str(each),)) for each in range(THREADS)
    ]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(10)
    may_go_on.set()
    first.join(10)
    route.close(5)
    (exporter,) = made
    expected = {f"{name} {n}" for name in ("first", *"0123") for n in range(ITEMS)}
    assert sorted(exporter.items) == sorted(expected)
    spans = counters.of(TRACES)
    assert (spans.exported, spans.lost) == (len(expected), 0)
