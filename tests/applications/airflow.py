"""Airflow with the CeleryExecutor: metadata database, API server, scheduler, worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.servers import free_port, is_open

if TYPE_CHECKING:
    from tests.applications.lab import Lab

# Its provider cannot import Celery 5.7, traced or not (2026-11-26).
REQUIREMENTS = [
    "apache-airflow[celery]",
    "apache-airflow-providers-postgres",
    "celery<5.7",
]
RUNS = 2
IDLE_SECONDS = 20

CODE = """
from airflow.sdk import dag, task

@dag(dag_id="shop", schedule=None)
def shop():
    @task
    def one():
        return 1

    @task
    def double(number):
        return number * 2

    double(one())

shop()
"""


def examine(lab: Lab) -> list[str]:
    """Trigger a DAG of two tasks some times, then let the scheduler idle."""
    home, port = lab.folder / "airflow", free_port()
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "shop.py").write_text(CODE)
    database = f"shop@127.0.0.1:{lab.postgres}/postgres"
    lab.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only for this test, which keeps nothing at all",
        "AIRFLOW__API__SECRET_KEY": "only for this test, which keeps nothing at all",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__BROKER_URL": f"{lab.redis}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
        "OTEL_CELERY_TASK_NAME_FROM": "execute_workload=0.ti.dag_id",
    }
    lab.run("airflow", "db", "migrate")
    api = lab.start("airflow", "api-server", "-p", str(port))
    api.wait_for(lambda: is_open(port))
    processor = lab.start("airflow", "dag-processor")
    scheduler = lab.start(
        "otel-celery", "exec", "--role", "scheduler", "--", "airflow", "scheduler"
    )
    worker = lab.start(
        "otel-celery", "exec", "--role", "worker", "--", "airflow", "celery", "worker"
    )
    worker.wait_for(" ready.")
    processor.wait_for(lambda: "shop" in lab.run("airflow", "dags", "list"))
    lab.run("airflow", "dags", "unpause", "shop")
    for _ in range(RUNS):
        lab.run("airflow", "dags", "trigger", "shop")
    lab.wait_for_runs(RUNS * 2)
    time.sleep(IDLE_SECONDS)
    found = [
        f"runs {dict(lab.runs())} of {len(lab.receiver.spans)} spans",
        f"roots {dict(lab.roots())}",
    ]
    name = "run/execute_workload shop"
    assert lab.runs() == {name: RUNS * 2}, (found, worker.output[-3000:])
    assert not [root for root in lab.roots() if root.endswith("CLIENT")], found
    assert scheduler.process.poll() is None
    assert worker.stop() == 0
    return found
