"""celery-director: a command that becomes Celery's by exec, tasks from a YAML file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.applications.lab import Lab

REQUIREMENTS = ["celery-director"]
# mysql-connector-python 8.0 holds protobuf below 4, OpenTelemetry 1.30 wants 5.
MOVED = ["protobuf"]
WORKFLOWS = 5


def examine(lab: Lab) -> list[str]:
    """Run its worker under exec, and its first workflow some times."""
    home = lab.folder / "project"
    lab.run("director", "init", str(home))
    settings = (home / ".env").read_text()
    settings = re.sub("redis://127.0.0.1:6379", lab.redis, settings)
    (home / ".env").write_text(settings)
    lab.environ["DIRECTOR_HOME"] = str(home)
    lab.run("director", "db", "upgrade")
    worker = lab.start(
        "otel-celery", "exec", "--role", "worker", "--",
        "director", "celery", "worker", "--loglevel", "INFO", "-c", "2",
    )  # fmt: skip
    worker.wait_for(" ready.")
    for _ in range(WORKFLOWS):
        lab.run(
            "otel-celery", "exec", "--", "director", "workflow", "run", "example.ETL"
        )
    lab.wait_for_runs(WORKFLOWS * 3)
    status = worker.stop()
    runs = lab.runs()
    names = ("run/EXTRACT", "run/TRANSFORM", "run/LOAD")
    assert all(runs[name] == WORKFLOWS for name in names), runs
    assert status == 0
    assert not [root for root in lab.roots() if root.endswith("CLIENT")], lab.roots()
    return [f"runs {dict(runs)}", f"roots {dict(lab.roots())}", f"stop {status}"]
