"""OTEL_CELERY_TASK_NAME_FROM: names for applications with one task for everything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.tasks.labels import LABELS_KEPT, Labels
from tests.support.harness import Producer, runs

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.support.harness import Launcher

WORKLOAD = json.dumps({"ti": {"dag_id": "nightly", "try": 2}, "token": "s3cr3t"})


@pytest.mark.parametrize(
    ("path", "args", "kwargs", "label"),
    [
        ("0", ["nightly"], {}, "nightly"),
        ("job", [], {"job": "nightly"}, "nightly"),
        ("0", [7], {}, "7"),
        ("0.ti.dag_id", [WORKLOAD], {}, "nightly"),
        ("workload.ti.dag_id", [], {"workload": {"ti": {"dag_id": "x"}}}, "x"),
        ("jobs.1", [], {"jobs": ["a", "b"]}, "b"),
        ("0", [], {}, ""),
        ("0", None, None, ""),
        ("job", [], [], ""),
        ("0", [True], {}, ""),
        ("0", [10**5000], {}, ""),
        ("0", [{"a": 1}], {}, ""),
        ("0", ["x" * 101], {}, ""),
        ("0", ["two\nlines"], {}, ""),
        ("0.a", ["no json"], {}, ""),
        ("0.a.b", ['{"a": 1}'], {}, ""),
        ("0.a", ["[" * 10_000], {}, ""),
    ],
)
def test_what_a_path_leads_to(path: str, args: Any, kwargs: Any, label: str) -> None:
    assert Labels().find(path, args, kwargs) == label


def test_there_are_so_many_labels_at_most() -> None:
    labels = Labels()
    found = {labels.find("0", [number], {}) for number in range(LABELS_KEPT + 100)}
    assert len(found - {""}) == LABELS_KEPT
    assert labels.find("0", [0], {}) == "0", "those that are known stay"


def test_publish_and_run_have_the_label_and_nothing_else_of_the_arguments(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    environ = {"OTEL_CELERY_TASK_NAME_FROM": "shop.takes=0.ti.dag_id"}
    worker = launcher.worker("-c1", **environ)
    producer = Producer(broker)
    producer.send("shop.takes", WORKLOAD)
    producer.send("shop.takes", "another form")
    producer.send("shop.noop")
    producer.wait_for_results()
    launcher.run(
        "-A", "shop", "call", "shop.takes", "-a", json.dumps([WORKLOAD]), **environ
    )
    collector.wait_for(lambda spans: len(runs(spans)) >= 4, 10)
    worker.stop()
    names = sorted(span.name for span in collector.spans)
    assert names == [
        "apply_async/shop.takes nightly",
        "run/shop.noop",
        "run/shop.takes",
        "run/shop.takes nightly",
        "run/shop.takes nightly",
    ]
    labels = {span.attributes.get("celery.task.label") for span in collector.spans}
    assert labels == {None, "nightly"}
    assert "s3cr3t" not in str(collector.spans)
