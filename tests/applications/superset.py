"""Superset: its worker is Celery's command line, its settings are a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.applications.lab import Lab

# Its command line wants rich; newer releases of the others break it, traced or not.
REQUIREMENTS = ["apache-superset", "redis", "rich", "flask-caching<2.4", "celery<5.6"]
TASKS = 5

SETTINGS = """
SECRET_KEY = "only for this test, which keeps nothing"
SQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/superset.db"
class CeleryConfig:
    broker_url = "{redis}/0"
    result_backend = "{redis}/1"
    imports = ("superset.sql_lab", "superset.tasks.scheduler", "superset.tasks.cache")
    beat_schedule = {{"reports.prune_log": {{"task": "reports.prune_log", "schedule": 1.0}}}}
CELERY_CONFIG = CeleryConfig
"""


def examine(lab: Lab) -> list[str]:
    """Run worker and beat; its own task of pruning reads the database."""
    settings = SETTINGS.format(folder=lab.folder, redis=lab.redis)
    (lab.folder / "superset_config.py").write_text(settings)
    lab.environ |= {"FLASK_APP": "superset", "PYTHONPATH": str(lab.folder)}
    lab.run("superset", "db", "upgrade")
    app = "--app=superset.tasks.celery_app:app"
    worker = lab.start("otel-celery", app, "worker", "-l", "INFO", "-c", "2")
    worker.wait_for(" ready.")
    beat = lab.start("otel-celery", app, "beat", "-l", "INFO")
    lab.wait_for_runs(TASKS)
    beat.stop()
    status = worker.stop()
    assert lab.runs()["run/reports.prune_log"] >= TASKS, lab.runs()
    assert set(lab.roots()) == {"beat PRODUCER"}, lab.roots()
    assert status == 0
    spans = len(lab.receiver.spans)
    return [f"runs {dict(lab.runs())} of {spans} spans", f"roots {dict(lab.roots())}"]
