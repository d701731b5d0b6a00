"""What is in deploy/ is correct: each kind by its own checker, none with a misspelt key."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import reduce
from importlib.metadata import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from otel_celery_launcher.metrics.builtin import BUILTINS
from otel_celery_launcher.metrics.layout import Kind
from otel_celery_launcher.signals import SIGNALS
from tests.collector.engines import merged

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
KUBERNETES = sorted(
    path
    for path in (DEPLOY / "kubernetes").glob("*.yaml")
    if path.name != "kustomization.yaml"
)
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COLLECTORS = {
    "agent": ["collector/agent.yaml"],
    "gateway": ["collector/gateway.yaml"],
    "sampler": ["collector/sampler.yaml"],
    "kubernetes gateway": [
        "kubernetes/collector/gateway.yaml",
        "kubernetes/collector/gateway-kubernetes.yaml",
    ],
}


def said_by(*command: object) -> tuple[int, str]:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


# Docker and compose.


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/docker/Dockerfile.app"])
def test_dockerfiles(path: str) -> None:
    assert said_by(BIN / "hadolint", ROOT / path) == (0, "")


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/kubernetes/inject/Dockerfile"])
def test_a_dockerfile_copies_what_its_wheel_needs(path: str, tmp_path: Path) -> None:
    """The first stage alone has the project; a file that is not copied is not there."""
    stage = (ROOT / path).read_text().partition("\nFROM ")[2].partition("\nFROM ")[0]
    for line in re.findall(r"^COPY (.+)$", stage, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            found, folder = ROOT / source, tmp_path / target
            if found.is_dir():
                shutil.copytree(found, folder)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, folder)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "dist", "."]
    done = subprocess.run(
        build, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("dist/*.whl"))


def test_only_the_command_of_an_applications_image_changes() -> None:
    text = (DEPLOY / "docker" / "Dockerfile.app").read_text()
    before, now = re.findall(r"CMD (\[.+\])", text)
    assert json.loads(now) == ["otel-celery", *json.loads(before)[1:]]


COMPOSE = DEPLOY / "compose" / "compose.yaml"


def schema_problems(schema: str, document: Any) -> list[str]:
    """Return what a schema of check-jsonschema's says of a document."""
    (path,) = [
        each
        for each in files("check-jsonschema") or ()
        if each.name == f"{schema}.json"
    ]
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text()))
    return [error.message for error in validator.iter_errors(document)]


def compose_problems(text: str) -> list[str]:
    return schema_problems("compose-spec", yaml.safe_load(text))


def test_compose() -> None:
    text = COMPOSE.read_text()
    assert compose_problems(text) == []
    assert compose_problems(text.replace("depends_on:", "depend_on:"))


def test_compose_names_what_is_there() -> None:
    found = yaml.safe_load(COMPOSE.read_text())
    services, volumes = found["services"], set(found["volumes"])
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            assert other in services, (name, other)
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            is_there = (COMPOSE.parent / source).exists() or source in volumes
            assert is_there, (name, mount)
        image = service.get("image", "")
        assert re.search(r":(?!latest)[\w.-]+$", image), f"{name}: {image} has no tag"
    build = services["worker"]["build"]
    context = COMPOSE.parent / build["context"]
    assert (context / build["dockerfile"]).is_file()
    assert (context / "requirements.txt").is_file()
    assert {"web", "worker", "beat", "flower", "redis", "rabbitmq"} < set(services)


UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes"}
KIND_SUFFIXES = {
    Kind.COUNTER: ("_total",),
    Kind.ABSOLUTE: ("_total",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
}


def prometheus_names() -> dict[str, set[str]]:
    """Return the names that Prometheus gives the built-in metrics, with their labels.

    By its own rules: dots become underscores, a unit is appended, and so is the kind
    (https://prometheus.io/docs/guides/opentelemetry/).
    """
    names: dict[str, set[str]] = {}
    for builtin in BUILTINS.values():
        described = builtin.description
        stem = described.name.replace(".", "_") + UNIT_SUFFIXES.get(described.unit, "")
        labels = {each.replace(".", "_") for each in builtin.attributes}
        for suffix in KIND_SUFFIXES.get(described.kind, ("",)):
            names[stem + suffix] = labels | {"service_name", "le"}
    return names


def queries() -> list[str]:
    board = json.loads((DEPLOY / "compose/grafana/dashboards/celery.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    return [
        *(target["expr"] for panel in board["panels"] for target in panel["targets"]),
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
    ]


def unknown_in(query: str) -> tuple[set[str], bool]:
    """Return names in a PromQL query that nothing sends, and whether it asks for a metric."""
    names = prometheus_names()
    asked = re.findall(
        r"\b((?:celery|messaging|process|otel|flower)_[a-z_]+)(?=[{\[)\s]|$)", query
    )
    metrics = [name for name in asked if name in names]
    labels = {label for name in metrics for label in names[name]}
    unknown = {name for name in asked if name not in names and name not in labels}
    selected = set(re.findall(r"([a-z_]+)=~?!?\"", query)) | set(
        re.findall(r"([a-z_]+)!=", query)
    )
    return unknown | selected - {"__name__"} - labels, bool(metrics)


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_metrics_that_are_there(query: str) -> None:
    unknown, has_metrics = unknown_in(query)
    assert unknown == set()
    assert has_metrics or "otelcol_" in query


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = json.loads((DEPLOY / "compose/grafana/dashboards/celery.json").read_text())
    assert [each["type"] for each in board["__inputs"]] == ["datasource"]
    for panel in board["panels"]:
        for each in (panel, *panel["targets"]):
            assert each["datasource"]["uid"] == "${datasource}"
    titles = " ".join(panel["title"] for panel in board["panels"]).lower()
    for word in (
        "throughput",
        "run time",
        "wait",
        "depth",
        "failures",
        "killed",
        "lost",
    ):
        assert word in titles
    sources = yaml.safe_load(
        (DEPLOY / "compose/grafana/provisioning/datasources/all.yaml").read_text()
    )
    uids = {each["uid"] for each in sources["datasources"]}
    assert uids >= {"prometheus", "tempo", "loki"}


def test_each_alert_has_a_runbook() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    page = (DEPLOY.parent / "docs/metrics.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("#")
    }
    for group in rules["groups"]:
        for rule in group["rules"]:
            path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert path == "docs/metrics.md"
            assert anchor in anchors, rule["alert"]


def test_the_interval_of_each_query_is_that_of_the_workers() -> None:
    """Two values in each window: Grafana takes four times a query's own interval."""
    text = (DEPLOY / "compose/grafana/dashboards/celery.json").read_text()
    for panel in json.loads(text)["panels"]:
        assert {each["interval"] for each in panel["targets"]} == {"1m"}


def test_each_alert_is_tested() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = yaml.safe_load((ROOT / "tests/collector/alerts.yaml").read_text())["tests"]
    raised = {
        each["alertname"]
        for case in cases
        for each in case["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert raised == names


# What Grafana, Tempo and Prometheus read: the keys that are used, by their documentation.
QUERY = dict.fromkeys(("customQuery", "datasourceUid", "query", "spanEndTimeShift",
                       "spanStartTimeShift"))  # fmt: skip
SOURCE = {
    **dict.fromkeys(("name", "uid", "type", "access", "url", "isDefault")),
    "jsonData": {
        "exemplarTraceIdDestinations": dict.fromkeys(("name", "datasourceUid")),
        "derivedFields": dict.fromkeys(
            ("name", "matcherType", "matcherRegex", "datasourceUid", "url")
        ),
        "nodeGraph": {"enabled": None},
        "serviceMap": {"datasourceUid": None},
        "tracesToLogsV2": QUERY,
        "tracesToMetrics": {
            **QUERY,
            "tags": dict.fromkeys(("key", "value")),
            "queries": dict.fromkeys(("name", "query")),
        },
    },
}
READ_BY_OTHERS = {
    "tempo.yaml": {
        "stream_over_http_enabled": None,
        "server": {"http_listen_port": None},
        "distributor": {
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": None}}}}
        },
        "storage": {
            "trace": {"backend": None, "wal": {"path": None}, "local": {"path": None}}
        },
        "usage_report": {"reporting_enabled": None},
    },
    "prometheus.yaml": {
        "global": {"scrape_interval": None},
        "rule_files": None,
        "otlp": {"promote_resource_attributes": None},
        "storage": {"tsdb": {"out_of_order_time_window": None}},
        "scrape_configs": {
            **dict.fromkeys(("job_name", "honor_labels")),
            "static_configs": {"targets": None},
        },
    },
    "grafana/provisioning/datasources/all.yaml": {
        "apiVersion": None,
        "datasources": SOURCE,
    },
    "grafana/provisioning/dashboards/all.yaml": {
        "apiVersion": None,
        "providers": {**dict.fromkeys(("name", "type")), "options": {"path": None}},
    },
}


def unknown_keys(value: Any, allowed: Any, where: str) -> list[str]:
    """Return the keys that are not allowed, one line each."""
    if allowed is None or value is None:
        return []
    if isinstance(value, list):
        return [each for item in value for each in unknown_keys(item, allowed, where)]
    if not isinstance(value, dict):
        return [f"{where} is {value!r}: expected {sorted(allowed)}"]
    found = []
    for key, below in value.items():
        if key in allowed:
            found += unknown_keys(below, allowed[key], f"{where}.{key}")
        else:
            found.append(f"{where}.{key} is no setting")
    return found


@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_what_the_others_read(name: str) -> None:
    config = yaml.safe_load((DEPLOY / "compose" / name).read_text())
    assert unknown_keys(config, READ_BY_OTHERS[name], name) == []


# Collectors.


def read(paths: list[str]) -> dict[str, Any]:
    """Return several configurations as one."""
    return reduce(
        merged, (yaml.safe_load((DEPLOY / path).read_text()) for path in paths)
    )


@pytest.mark.parametrize("name", COLLECTORS)
def test_each_collector_takes_each_signal(name: str) -> None:
    """The Collector itself reads these files in tests/collector."""
    pipelines = read(COLLECTORS[name])["service"]["pipelines"]
    assert {each.name for each in SIGNALS} == set(pipelines)
    for pipeline in pipelines.values():
        assert pipeline["receivers"] == ["otlp"]
        assert pipeline["processors"][0] == "memory_limiter"


@pytest.mark.parametrize("name", COLLECTORS)
def test_all_that_a_collector_has_is_used(name: str) -> None:
    config = read(COLLECTORS[name])
    used = {
        each
        for pipeline in config["service"]["pipelines"].values()
        for part in pipeline.values()
        for each in part
    } | {*config["service"]["extensions"]}
    there = {each for part in config if part != "service" for each in config[part]}
    assert there == used


def test_a_trace_leads_to_its_log_lines_and_back() -> None:
    """Loki keeps the ids of OTLP as structured metadata: trace_id and span_id."""
    sources = yaml.safe_load(
        (DEPLOY / "compose/grafana/provisioning/datasources/all.yaml").read_text()
    )
    by_uid = {each["uid"]: each["jsonData"] for each in sources["datasources"]}
    (link,) = by_uid["loki"]["derivedFields"]
    assert (link["matcherType"], link["matcherRegex"]) == ("label", "trace_id")
    assert link["datasourceUid"] == "tempo"
    for uid in ("tempo", "jaeger"):
        to_logs = by_uid[uid]["tracesToLogsV2"]
        assert to_logs["datasourceUid"] == "loki"
        assert '| trace_id="$${__trace.traceId}"' in to_logs["query"]
    environ = (DEPLOY / "compose/.env").read_text().splitlines()
    assert "OTEL_LOGS_EXPORTER=otlp" in environ


@pytest.mark.parametrize("name", ["agent", "gateway", "sampler"])
def test_collectors_are_the_same_everywhere(name: str) -> None:
    one, other = (
        DEPLOY / f"{place}collector/{name}.yaml" for place in ("", "kubernetes/")
    )
    assert one.read_text() == other.read_text()


# Kubernetes.


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes(path: Path) -> None:
    status, said = said_by(BIN / "kubernetes-validate", "--strict", path)
    assert status == 0, said


def test_a_misspelt_key_of_kubernetes_is_found(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes" / "worker.yaml").read_text()
    bad = tmp_path / "worker.yaml"
    bad.write_text(text.replace("readinessProbe:", "readinesProbe:"))
    assert said_by(BIN / "kubernetes-validate", "--strict", bad)[0] != 0


def test_kustomization_names_what_is_there() -> None:
    folder = DEPLOY / "kubernetes"
    found = yaml.safe_load((folder / "kustomization.yaml").read_text())
    keys = {
        "apiVersion",
        "kind",
        "namespace",
        "resources",
        "configMapGenerator",
        "images",
    }
    assert set(found) == keys
    assert {folder / name for name in found["resources"]} == set(KUBERNETES)
    maps = {each["name"]: each for each in found["configMapGenerator"]}
    for each in maps.values():
        assert all(
            (folder / name).is_file() for name in each.get("files", each.get("envs"))
        )
    for document in documents():
        text = json.dumps(document)
        for name in re.findall(r'"configMap(?:Ref)?": {"name": "([^"]+)"', text):
            assert name in maps
    configs = {Path(name).name for name in maps["otel-collector"]["files"]}
    asked = {
        Path(word).name
        for document in documents()
        for word in re.findall(r"--config=([^\"]+)", json.dumps(document))
    }
    assert asked == configs


def documents() -> list[Any]:
    return [
        document
        for path in KUBERNETES
        for document in yaml.safe_load_all(path.read_text())
    ]


def workload(name: str) -> Any:
    (found,) = [
        document
        for document in documents()
        if document["metadata"]["name"] == name and document["kind"] == "Deployment"
    ]
    return found


@pytest.mark.parametrize("name", ["web", "worker", "beat"])
def test_workloads_run_without_privileges(name: str) -> None:
    """The launcher itself does: tests/process/test_exporter_process.py."""
    pod = workload(name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["command"][0] == "otel-celery"


def test_beat_is_one() -> None:
    spec = workload("beat")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


# systemd.


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units(unit: Path, tmp_path: Path) -> None:
    """Any word is a failure: an unknown key is only a warning to systemd."""
    assert verify(unit.read_text(), unit.name, tmp_path) == (0, "")
    bad = (
        unit.read_text()
        .replace("KillMode=", "KilMode=")
        .replace("RestartSec=", "RestarSec=")
    )
    assert verify(bad, unit.name, tmp_path) != (0, "")


def verify(text: str, name: str, folder: Path) -> tuple[int, str]:
    """Verify a unit whose program is one that is here."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is not installed: run `make servers`"
    path = folder / name.replace("@", "@w1")
    path.write_text(text.replace("/opt/app/venv/bin/otel-celery", "/bin/true"))
    return said_by(program, "verify", "--man=no", path)


def test_units_are_hardened(tmp_path: Path) -> None:
    for unit in UNITS:
        path = tmp_path / unit.name
        path.write_text(unit.read_text())
        status, said = said_by(
            "systemd-analyze", "security", "--offline=true", "--threshold=40", path
        )
        assert status == 0, said[-500:]


# Shell.


def test_shell() -> None:
    program = shutil.which("shellcheck")
    assert program, "shellcheck is not installed: run `make servers`"
    scripts = [
        path
        for path in said_by("git", "-C", ROOT, "ls-files")[1].splitlines()
        if (ROOT / path).is_file()
        and (ROOT / path).read_bytes().startswith(b"#!/bin/sh")
    ]
    assert scripts
    assert said_by(program, *(ROOT / path for path in scripts)) == (0, "")


# Workflows.


def test_workflows() -> None:
    """By their schema; and without a right, a secret or an action that is not pinned."""
    paths = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(paths) == 2
    status, said = said_by(BIN / "zizmor", "--offline", "--no-progress", *paths)
    assert status == 0, said
    for path in paths:
        document = yaml.safe_load(path.read_text())
        document["on"] = document.pop(True)  # what YAML 1.1 makes of it
        assert schema_problems("github-workflows", document) == []
        for action in re.findall(r"uses: (\S+)(.*)", path.read_text()):
            assert re.fullmatch(r".+@[0-9a-f]{40}", action[0]), action
            assert re.fullmatch(r" # v[\d.]+", action[1]), action
