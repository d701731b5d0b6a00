"""pretix: a Django project whose worker is Celery's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.applications.lab import Lab

REQUIREMENTS = ["pretix"]

SETTINGS = """
[pretix]
instance_name=test
url=http://localhost
datadir={folder}/data
[database]
backend=sqlite3
[celery]
broker={redis}/0
backend={redis}/1
"""


def examine(lab: Lab) -> list[str]:
    """Run the worker, and pretix's own periodic tasks from a management command."""
    (lab.folder / "data").mkdir()
    settings = SETTINGS.format(folder=lab.folder, redis=lab.redis)
    (lab.folder / "pretix.cfg").write_text(settings)
    lab.environ["PRETIX_CONFIG_FILE"] = str(lab.folder / "pretix.cfg")
    lab.run("python", "-m", "pretix", "migrate")
    worker = lab.start(
        "otel-celery", "-A", "pretix.celery_app", "worker", "-l", "INFO", "-c", "2"
    )
    worker.wait_for(" ready.")
    lab.run("otel-celery", "exec", "--", "python", "-m", "pretix", "runperiodic")
    worker.wait_for("succeeded in")
    lab.wait_for_runs(1)
    status = worker.stop()
    finished = worker.output.count("succeeded in") + worker.output.count("raised unex")
    found = [f"runs {dict(lab.runs())}", f"roots {dict(lab.roots())}"]
    assert sum(lab.runs().values()) >= finished > 0, (found, finished)
    assert not [root for root in lab.roots() if root.endswith("CLIENT")], found
    assert status == 0
    return found
