"""dagster-celery: a command that starts Celery's as its child, for steps of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.applications.lab import Lab

REQUIREMENTS = ["dagster", "dagster-celery", "celery[redis]"]
JOBS = 2

CODE = """
from dagster import job, op
from dagster_celery import celery_executor

@op
def one():
    return 1

@op
def double(number):
    return number * 2

@job(executor_def=celery_executor)
def work():
    double(one())
"""

RUN = """
execution:
  config:
    broker: {redis}/0
    backend: {redis}/1
"""


def examine(lab: Lab) -> list[str]:
    """Run its worker under exec, and a job of two steps some times."""
    (lab.folder / "jobs.py").write_text(CODE)
    (lab.folder / "run.yaml").write_text(RUN.format(redis=lab.redis))
    home = lab.folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").touch()
    lab.environ["DAGSTER_HOME"] = str(home)
    worker = lab.start(
        "otel-celery", "exec", "--role", "worker", "--",
        "dagster-celery", "worker", "start", "-A", "dagster_celery.app",
        "-y", "run.yaml", "--loglevel", "info",
    )  # fmt: skip
    worker.wait_for(" ready.")
    for _ in range(JOBS):
        lab.run(
            "otel-celery", "exec", "--", "dagster", "job", "execute",
            "-f", "jobs.py", "-j", "work", "-c", "run.yaml",
        )  # fmt: skip
    lab.wait_for_runs(JOBS * 2)
    assert lab.runs()["run/execute_plan"] == JOBS * 2, lab.runs()
    assert not [root for root in lab.roots() if root.endswith("CLIENT")], lab.roots()
    return [f"runs {dict(lab.runs())}", f"roots {dict(lab.roots())}"]
