"""The chart of deploy/helm, rendered by Helm itself."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.kubernetes.tools import run_tool
from tests.support.harness import Producer, assert_each_run_once, run_some

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver
    from tests.kubernetes.tools import run_tool
from tests.support.harness import Launcher

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
CHART = DEPLOY / "helm" / "otel-celery"
VALIDATE = Path(sys.executable).with_name("kubernetes-validate")

EVERYTHING = (
    "collectors.enabled=true",
    "dashboards.enabled=true",
    "alerts.enabled=true",
)
# Of the Prometheus Operator, whose schema is not Kubernetes'.
OTHERS = {"PrometheusRule"}


helm = partial(run_tool, "TEST_HELM")


def rendered(*values: str) -> list[Any]:
    words = [word for value in values for word in ("--set", value)]
    done = helm("template", "shop", CHART, "--namespace", "apps", *words)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def named(documents: list[Any], kind: str, name: str) -> Any:
    (found,) = [
        each
        for each in documents
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def pod_of(documents: list[Any], name: str) -> Any:
    return named(documents, "Deployment", name)["spec"]["template"]


def test_helm_finds_nothing_to_say() -> None:
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", [(), EVERYTHING, ("inject=true",)])
def test_what_it_renders_is_valid(tmp_path: Path, values: tuple[str, ...]) -> None:
    for number, document in enumerate(rendered(*values)):
        if document["kind"] in OTHERS:
            continue
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(document))
        done = subprocess.run(
            [VALIDATE, "--strict", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (document, done.stdout + done.stderr)


@pytest.mark.parametrize("name", ["worker", "beat", "web"])
def test_workloads_are_those_of_the_plain_files(name: str) -> None:
    """But for their names, and for what the chart has to leave open."""
    (plain, *_) = yaml.safe_load_all(
        (DEPLOY / "kubernetes" / f"{name}.yaml").read_text()
    )
    chart = named(rendered(), "Deployment", f"shop-{name}")
    for one in (plain, chart):
        one["metadata"].pop("name")
        (container,) = one["spec"]["template"]["spec"]["containers"]
        for key in ("image", "imagePullPolicy", "envFrom"):
            container.pop(key, None)
    assert chart == plain


def test_an_injected_image_runs_plain_celery_below_the_policy() -> None:
    documents = rendered("inject=true")
    for name in ("worker", "beat", "web"):
        pod = pod_of(documents, f"shop-{name}")
        assert pod["metadata"]["labels"]["otel-celery.io/inject"] == "true"
        (container,) = pod["spec"]["containers"]
        assert "otel-celery" not in container["command"]
        assert "readinessProbe" not in container or name == "web"
    (web,) = pod_of(documents, "shop-web")["spec"]["containers"]
    assert {"name": "OTEL_CELERY_INJECT", "value": "python"} in web["env"]


def test_workers_are_values() -> None:
    documents = rendered(
        "workers.emails.app=shop.tasks",
        "workers.emails.queues={emails,urgent}",
        "workers.emails.arguments={--max-tasks-per-child=100}",
        "workers.worker=null",
        "beat.enabled=false",
        "web.enabled=false",
    )
    deployments = [each for each in documents if each["kind"] == "Deployment"]
    (only,) = deployments
    assert only["metadata"]["name"] == "shop-emails"
    (container,) = only["spec"]["template"]["spec"]["containers"]
    assert container["command"][-3:] == [
        "-Q",
        "emails,urgent",
        "--max-tasks-per-child=100",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("workers.worker.replica=3", "replica"),
        ("name=Shop", "name"),
        ("endpoint=otel-agent:4317", "endpoint"),
        ("beat.replicas=2", "replicas"),
        ("injected=true", "injected"),
    ],
)
def test_a_value_that_nothing_reads_is_refused(value: str, text: str) -> None:
    done = helm("template", "shop", CHART, "--set", value)
    assert done.returncode != 0
    assert text in done.stderr


def test_collectors_dashboards_and_alerts_are_the_same_files() -> None:
    documents = rendered(*EVERYTHING, "collectors.tempo=tempo.example:4317")
    config = named(documents, "ConfigMap", "otel-collector")["data"]
    folder = DEPLOY / "kubernetes" / "collector"
    assert config == {each.name: each.read_text() for each in folder.iterdir()}
    board = named(documents, "ConfigMap", "shop-otel-celery-dashboard")
    assert json.loads(board["data"]["celery.json"])["panels"]
    rules = named(documents, "PrometheusRule", "shop-otel-celery")["spec"]
    assert rules == yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    binding = named(documents, "ClusterRoleBinding", "otel-gateway")
    assert binding["subjects"][0]["namespace"] == "apps"
    sampler = named(documents, "StatefulSet", "otel-sampler")
    assert "tempo.example:4317" in json.dumps(sampler)


def test_a_workers_command_runs(
    launcher: Launcher, collector: Receiver, broker: str
) -> None:
    """With the variables of its container, as the kubelet expands them."""
    documents = rendered("workers.worker.app=shop", f"endpoint={collector.endpoint}")
    (container,) = pod_of(documents, "shop-worker")["spec"]["containers"]
    environ = dict(named(documents, "ConfigMap", "shop-otel")["data"])
    for each in container["env"]:
        environ[each["name"]] = each.get("value", "here")
    environ["OTEL_RESOURCE_ATTRIBUTES"] = environ["OTEL_RESOURCE_ATTRIBUTES"].replace(
        "$(POD_NAME)", "pod-1"
    )
    environ["OTEL_CELERY_HEALTH_FILE"] = str(launcher.folder / "health")
    _, *words = (word.replace("$(POD_NAME)", "pod-1") for word in container["command"])
    worker = launcher.start(*words, **environ).wait_until_ready()
    producer = Producer(broker)
    run_some(producer, 5)
    probe = launcher.run(*container["readinessProbe"]["exec"]["command"][1:], **environ)
    assert probe.returncode == 0, probe.stderr
    worker.stop()
    assert_each_run_once(collector, producer)
    (resource,) = {json.dumps(s.resource, sort_keys=True) for s in collector.spans[:1]}
    assert '"k8s.pod.name": "pod-1"' in resource
    assert "worker@pod-1" in worker.output
