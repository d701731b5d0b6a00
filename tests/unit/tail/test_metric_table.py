"""The table of the metrics of tasks."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.receiver.metrics import ReceivedPoint
from otel_celery_launcher.tail.metric_table import SERIES_KEPT, MetricTable


def point(metric: str, instance: str = "one", **fields: Any) -> ReceivedPoint:
    attributes = {
        "celery.task_name": "shop.order",
        "messaging.destination.name": "celery",
        **fields.pop("attributes", {}),
    }
    given = {
        "metric": metric, "unit": "s", "kind": "histogram", "temporality": "cumulative",
        "is_monotonic": False, "attributes": attributes, "value": 0.0, "count": 0,
        "bounds": (0.1, 1.0), "buckets": (0, 0, 0), "exemplars": (), "start": 1.0,
        "time": 2.0, "resource": {"service.instance.id": instance}, "scope": "ours",
        **fields,
    }  # fmt: skip
    return ReceivedPoint(**given)


def table(points: list[ReceivedPoint], **named: Any) -> list[list[str]]:
    metrics = MetricTable()
    metrics.add(points)
    return [line.split() for line in metrics.lines(**named)]


def runs(count: int, **fields: Any) -> ReceivedPoint:
    state = fields.pop("state", "SUCCESS")
    return point(
        "messaging.process.duration",
        count=count,
        buckets=(0, count, 0),
        attributes={"celery.state": state},
        **fields,
    )


def test_workers_are_added_up_and_the_last_point_of_each_counts() -> None:
    head, row = table(
        [runs(1), runs(5), runs(7, instance="two"), runs(2, state="FAILURE")]
    )
    assert head[:3] == ["task", "runs", "failed"]
    assert row[:3] == ["shop.order", "14", "2"]
    assert " ".join(row[3:]).count("≤") == 2


def test_waits_queues_and_a_trace_that_can_be_shown() -> None:
    depth = {"celery.queue.state": "ready"}
    points = [
        runs(3, exemplars=("a" * 32, "b" * 32)),
        point("celery.queue.wait", count=3, buckets=(0, 0, 3)),
        point("celery.queue.messages", kind="sum", value=4, attributes=depth),
        point("celery.queue.messages", "two", kind="sum", value=4, attributes=depth),
    ]
    _, row = table(points, is_known=lambda trace: trace == "a" * 32)
    assert row[-2:] == ["4", "a" * 32]
    assert any(cell.startswith(">") for cell in row)
    _, row = table(points)
    assert row[-1] == "b" * 32


def test_deltas_are_added() -> None:
    points = [runs(2, temporality="delta", time=float(at)) for at in (1, 2, 3)]
    _, row = table(points)
    assert row[1] == "6"


def test_nothing_that_comes_makes_it_grow_without_bound() -> None:
    metrics = MetricTable()
    for start in range(0, SERIES_KEPT * 2, 1000):
        metrics.add(
            [
                runs(1, instance=str(number), exemplars=(str(number),))
                for number in range(start, start + 1000)
            ]
        )
    _, row = [line.split() for line in metrics.lines()]
    assert row[1] == str(SERIES_KEPT)


def test_hostile_names_are_shown_safely() -> None:
    name = {"celery.task_name": "evil\x1b[2J\n" * 100}
    odd = {"celery.task_name": 7, "messaging.destination.name": ["x"]}
    lines = MetricTable()
    lines.add(
        [
            point("messaging.process.duration", count=1, attributes=each)
            for each in (name, odd)
        ]
    )
    for line in lines.lines(80):
        assert "\x1b" not in line
        assert len(line) <= 200
