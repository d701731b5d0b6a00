"""The component of deploy/kubernetes/inject, built by kustomize itself."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.kubernetes.tools import run_tool
from tests.support.harness import Producer, assert_each_run_once, run_some
from tests.support.servers import APPS, IMAGE

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.kubernetes.tools import run_tool
from tests.support.harness import Launcher

DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
COMPONENT = DEPLOY / "inject" / "component"

PATH = {"name": "PYTHONPATH", "value": "/otel:/app"}
FROM = {"configMapKeyRef": {"name": "shop", "key": "path"}}


def workload(name: str, *env: dict[str, Any], kind: str = "Deployment") -> Any:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"otel-celery.io/inject": "true"}},
        "spec": {
            "template": {
                "spec": {
                    "containers": [{"name": "worker", "image": "shop", "env": [*env]}]
                }
            }
        },
    }


def built(folder: Path, *workloads: Any) -> dict[str, Any]:
    """Return the pod of each workload, by its name."""
    base = folder / "base"
    base.mkdir()
    shutil.copytree(COMPONENT, folder / "component")
    (base / "all.yaml").write_text(yaml.safe_dump_all(workloads))
    kustomization = {"resources": ["all.yaml"], "components": ["../component"]}
    (base / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = run_tool("TEST_KUSTOMIZE", "build", base)
    assert done.returncode == 0, done.stderr
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in yaml.safe_load_all(done.stdout)
    }


def test_labelled_workloads_get_the_tree_and_keep_their_variables(
    tmp_path: Path,
) -> None:
    unlabelled = workload("other", PATH)
    unlabelled["metadata"]["labels"] = {"app": "shop"}
    pods = built(
        tmp_path,
        workload("literal", {"name": "A", "value": "b"}, PATH),
        workload("from", {"name": "PYTHONPATH", "valueFrom": FROM}),
        workload("set", PATH, kind="StatefulSet"),
        copy.deepcopy(unlabelled),
    )
    assert pods.pop("other") == unlabelled["spec"]["template"]["spec"]
    for name, pod in pods.items():
        (container,) = pod["containers"]
        assert container["volumeMounts"] == [
            {"name": "otel-celery", "mountPath": "/otel", "readOnly": True}
        ]
        assert [each["name"] for each in pod["volumes"]] == ["otel-celery"]
        (variable,) = [e for e in container["env"] if e["name"] == "PYTHONPATH"]
        assert variable.get("valueFrom") == (FROM if name == "from" else None)
        assert variable.get("value") == (None if name == "from" else "/otel:/app")


def test_the_plain_workloads_can_be_built(tmp_path: Path) -> None:
    done = run_tool("TEST_KUSTOMIZE", "build", DEPLOY)
    assert done.returncode == 0, done.stderr
    kinds = {each["kind"] for each in yaml.safe_load_all(done.stdout)}
    assert {"Deployment", "DaemonSet", "StatefulSet", "ConfigMap"} <= kinds


def test_what_the_init_container_copies_traces_the_worker(
    tmp_path: Path, made: Path, launcher: Launcher, collector: Receiver, broker: str
) -> None:
    pod = built(tmp_path, workload("worker", PATH))["worker"]
    (init,) = pod["initContainers"]
    target = tmp_path / "volume"
    target.mkdir()
    command = [
        word.replace("/autoinstrumentation", str(made)).replace("/to", str(target))
        for word in init["command"]
    ]
    subprocess.run(command, check=True)
    path = PATH["value"].replace("/otel", str(target)).replace("/app", str(APPS))
    worker = launcher.worker(
        app="plain", program=IMAGE / "bin" / "celery", PYTHONPATH=path
    )
    producer = Producer(broker)
    run_some(producer, 5, "plain.noop")
    worker.stop()
    assert_each_run_once(collector, producer)
