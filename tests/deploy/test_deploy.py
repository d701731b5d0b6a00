"""What is in deploy/ is correct: each kind by its own checker, none with a misspelt key."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from celery.bin.celery import celery

from otel_celery_launcher.cli import OWN_COMMANDS
from otel_celery_launcher.doctor.command import doctor
from otel_celery_launcher.settings.standard_variables import VARIABLES
from otel_celery_launcher.tail.command import tail
from tests.deploy.collector import COMPONENTS, OLD_NAMES, problems, unknown_keys

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
    "compose agent": ["collector/agent.yaml", "compose/logs.yaml"],
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


def test_only_the_command_of_an_applications_image_changes() -> None:
    text = (DEPLOY / "docker" / "Dockerfile.app").read_text()
    before, now = re.findall(r"CMD (\[.+\])", text)
    assert json.loads(now) == ["otel-celery", *json.loads(before)[1:]]


COMPOSE = DEPLOY / "compose" / "compose.yaml"


def compose_problems(text: str) -> list[str]:
    """Return what the schema says of a compose file; the schema is check-jsonschema's."""
    (path,) = [
        each
        for each in files("check-jsonschema") or ()
        if each.name == "compose-spec.json"
    ]
    schema = json.loads(path.read_text())
    found = jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(text))
    return [error.message for error in found]


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


def test_the_dashboard_asks_for_metrics_that_the_sampler_makes() -> None:
    board = json.loads((DEPLOY / "compose/grafana/dashboards/celery.json").read_text())
    sampler = yaml.safe_load((DEPLOY / "collector/sampler.yaml").read_text())
    made = {
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_seconds_bucket",
    }
    for metric in sampler["connectors"]["signal_to_metrics"]["spans"]:
        stem = metric["name"].replace(".", "_")
        made.add(f"{stem}_seconds_bucket" if "histogram" in metric else f"{stem}_total")
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(
            r"\b((?:traces|celery)_\w+_(?:total|bucket))", target["expr"]
        )
    }
    assert asked <= made
    titles = " ".join(panel["title"] for panel in board["panels"]).lower()
    for word in (
        "throughput",
        "run time",
        "wait",
        "depth",
        "failures",
        "lost",
        "orphans",
    ):
        assert word in titles
    sources = yaml.safe_load(
        (DEPLOY / "compose/grafana/provisioning/datasources/all.yaml").read_text()
    )
    assert {each["uid"] for each in sources["datasources"]} >= {
        "prometheus",
        "tempo",
        "loki",
    }


# What Grafana, Tempo and Prometheus read: the keys that are used, by their documentation.
QUERY = dict.fromkeys(("customQuery", "datasourceUid", "query", "spanEndTimeShift",
                       "spanStartTimeShift"))  # fmt: skip
SOURCE = {
    **dict.fromkeys(("name", "uid", "type", "access", "url", "isDefault")),
    "jsonData": {
        "derivedFields": dict.fromkeys(
            ("name", "matcherRegex", "datasourceUid", "url")
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


@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_what_the_others_read(name: str) -> None:
    config = yaml.safe_load((DEPLOY / "compose" / name).read_text())
    assert unknown_keys(config, READ_BY_OTHERS[name], name) == []


# Collectors.


def merged(paths: list[str]) -> dict[str, Any]:
    """Return configurations as the collector merges several: maps, not lists."""
    found: dict[str, Any] = {}
    for path in paths:
        merge(found, yaml.safe_load((DEPLOY / path).read_text()))
    return found


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@pytest.mark.parametrize("name", COLLECTORS)
def test_collectors(name: str) -> None:
    assert problems(merged(COLLECTORS[name])) == []


def every_key(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, below in items:
        if isinstance(value, dict):
            found.append((*path, key))
        if isinstance(below, (dict, list)):
            found += every_key(below, (*path, key))
    return found


@pytest.mark.parametrize("name", COLLECTORS)
def test_each_misspelt_key_of_a_collector_is_found(name: str) -> None:
    config = merged(COLLECTORS[name])
    for path in every_key(config):
        bad = copy.deepcopy(config)
        place: Any = bad
        for key in path[:-1]:
            place = place[key]
        place[f"x{path[-1]}"] = place.pop(path[-1])
        assert problems(bad), path


def test_old_names_are_not_known() -> None:
    known = {name for section in COMPONENTS.values() for name in section} - {"otlp"}
    assert not known & set(OLD_NAMES)
    old = merged(COLLECTORS["agent"])
    old["exporters"]["otlp/gateway"] = old["exporters"].pop("otlp_grpc/gateway")
    assert "exporters: otlp/gateway is unknown, now otlp_grpc" in problems(old)


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


# Every variable and command that deploy/ and the documents name.

TEXTS = sorted(
    path
    for path in [
        ROOT / "README.md",
        ROOT / "Dockerfile",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *DEPLOY.rglob("*"),
    ]
    if path.is_file() and path.name != "compatibility.md"
)
# Read by others than the launcher: the SDK, an instrumentation, the collectors.
OTHERS = (
    "OTEL_INSTRUMENTATION_",
    "OTEL_PYTHON_",
    "OTEL_GATEWAY_ENDPOINT",
    "OTEL_QUEUE_DIRECTORY",
    "OTEL_SAMPLER_HOST",
    "OTEL_CONFIG_FILE",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_CELERY_EXPROT",  # the misspelling that the README shows
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_and_command_exists(path: Path) -> None:
    text = path.read_text()
    known = {row.name for row in VARIABLES}
    for name in set(re.findall(r"\bOTEL_[A-Z][A-Z_]*[A-Z]\b", text)):
        assert name in known or name.startswith(OTHERS), f"{name} is read by nobody"
    commands = {*celery.commands, *OWN_COMMANDS, "flower"}
    for words in re.findall(
        r"\botel-celery((?: +-A \S+)? +[a-z]+)\b(?! is| stands)", text
    ):
        word = words.split()[-1]
        assert word in commands or not re.search(
            rf"(^|[`$\"] ?)otel-celery{re.escape(words)}", text, re.MULTILINE
        ), f"otel-celery{words}"
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, f"make {target}"
    for command in (doctor, tail):
        options = {option for each in command.params for option in each.opts}
        for line in re.findall(
            rf"otel-celery(?: -A \S+)? {command.name}([^\n`|]*)", text
        ):
            for option in re.findall(r"(--[a-z-]+)", line):
                assert option in options, f"{command.name} {option}"
