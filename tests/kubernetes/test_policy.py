"""What the policy of deploy/kubernetes/inject makes of a pod, by the API server's library."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.kubernetes.tools import run_tool
from tests.support.harness import Producer, assert_each_run_once, run_some
from tests.support.servers import APPS, IMAGE

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.kubernetes.tools import run_tool
from tests.support.harness import Launcher

INJECT = Path(__file__).parent.parent.parent / "deploy" / "kubernetes" / "inject"

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "worker", "labels": {"otel-celery.io/inject": "true"}},
    "spec": {"containers": [{"name": "worker", "image": "shop"}]},
}
MOUNT = {"name": "otel-celery", "mountPath": "/otel", "readOnly": True}


def mutated(folder: Path, pod: dict[str, Any]) -> dict[str, Any]:
    (policy, _) = yaml.safe_load_all((INJECT / "policy.yaml").read_text())
    files = []
    for name, content in (("policy", policy), ("pod", pod)):
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(content))
    done = run_tool("TEST_KUBERNETES", *files)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def with_containers(*containers: dict[str, Any], **annotations: str) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    pod["spec"]["containers"] = [{"image": "shop"} | each for each in containers]
    if annotations:
        pod["metadata"]["annotations"] = {
            f"otel-celery.io/{key}": value for key, value in annotations.items()
        }
    return pod


def paths(pod: dict[str, Any]) -> list[Any]:
    """Return the value of PYTHONPATH of each container; None where it is left alone."""
    found: list[Any] = []
    for container in pod["spec"]["containers"]:
        assert container.get("volumeMounts", []).count(MOUNT) == int(
            "/otel" in str(container.get("env", ""))
        )
        values = [e for e in container.get("env", ()) if e["name"] == "PYTHONPATH"]
        assert len(values) <= 1
        found.append(values[0].get("value") if values else None)
    return found


PATH = {"name": "PYTHONPATH"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (None, "/otel"),
        ([], "/otel"),
        ([{"name": "A", "value": "b"}], "/otel"),
        ([PATH | {"value": "/app"}, {"name": "A", "value": "b"}], "/otel:/app"),
        ([{"name": "A", "value": "b"}, PATH | {"value": "/a:/b"}], "/otel:/a:/b"),
        ([PATH | {"value": ""}], "/otel"),
    ],
)
def test_the_path_is_added_before_what_is_there(
    tmp_path: Path, env: list[dict[str, str]] | None, expected: str
) -> None:
    container: dict[str, Any] = {"name": "worker"}
    if env is not None:
        container["env"] = env
    pod = mutated(tmp_path, with_containers(container))
    assert paths(pod) == [expected]
    others = [e for e in env or () if e["name"] != "PYTHONPATH"]
    (changed,) = pod["spec"]["containers"]
    assert [e for e in changed["env"] if e["name"] != "PYTHONPATH"] == others
    (volume,) = pod["spec"]["volumes"]
    assert volume["image"]["reference"].endswith("/otel-celery-inject:0.1.0")


def test_named_containers_only_and_once(tmp_path: Path) -> None:
    pod = with_containers(
        {"name": "worker"}, {"name": "proxy"},
        {"name": "web", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
        containers="web, worker",
    )  # fmt: skip
    pod["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    changed = mutated(tmp_path, pod)
    assert paths(changed) == ["/otel", None, "/otel"]
    assert [each["name"] for each in changed["spec"]["volumes"]] == [
        "tmp",
        "otel-celery",
    ]
    assert mutated(tmp_path, changed) == changed


def test_a_path_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    source = {"configMapKeyRef": {"name": "shop", "key": "path"}}
    pod = with_containers({"name": "worker", "env": [PATH | {"valueFrom": source}]})
    changed = mutated(tmp_path, pod)
    assert (
        changed["spec"]["containers"][0]["env"] == pod["spec"]["containers"][0]["env"]
    )
    assert "volumes" not in changed["spec"]


def test_a_pod_without_the_label_is_not_changed(tmp_path: Path) -> None:
    pod = with_containers({"name": "worker"})
    pod["metadata"]["labels"] = {"app": "shop"}
    assert paths(mutated(tmp_path, pod)) == [None]


def test_the_older_api_has_the_same_policy() -> None:
    text = (INJECT / "policy.yaml").read_text()
    older = (INJECT / "policy-v1beta1.yaml").read_text()
    found, expected = (list(yaml.safe_load_all(each)) for each in (older, text))
    for each in found:
        assert each["apiVersion"] == "admissionregistration.k8s.io/v1beta1"
        each["apiVersion"] = "admissionregistration.k8s.io/v1"
    assert found == expected


def test_a_changed_pods_command_is_traced(
    tmp_path: Path, made: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """The image has its application in PYTHONPATH, and the pod says so."""
    env = [PATH | {"value": str(APPS)}]
    pod = mutated(tmp_path, with_containers({"name": "worker", "env": env}))
    (path,) = paths(pod)
    worker = launcher.worker(
        app="plain",
        program=IMAGE / "bin" / "celery",
        PYTHONPATH=path.replace("/otel", str(made), 1),
    )
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    worker.stop()
    assert_each_run_once(collector, producer)
