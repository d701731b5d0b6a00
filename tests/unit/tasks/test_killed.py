"""Runs whose process is dead."""

from __future__ import annotations

from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.in_flight import InFlightRun, Reason
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.tasks.killed import KilledRuns
from tests.support.in_flight_runs import a_dead_process, a_run


def test_only_the_runs_of_dead_processes_are_ended() -> None:
    counters = Counters()
    ended: list[tuple[InFlightRun, int, Reason | None]] = []
    killed = KilledRuns(
        counters, ProcessClaim(), lambda _: None, lambda *run: ended.append(run)
    )
    counters.in_flight_record(0, 0).write(*a_run()[:3])
    dead = a_run(pid=a_dead_process(), task_id="dead")
    counters.in_flight_record(3, 3).write(*dead[:3])
    killed.poll()
    assert not ended, "Celery may have something to say"
    killed._task_failure(task_id="dead", exception=ValueError("why"))
    killed.poll()
    ((task, _, reason),) = ended
    assert task == dead._replace(slot=3)
    assert reason == {"error.type": "builtins.ValueError", "text": "why"}
    killed.poll()
    assert len(ended) == 1
    killed.poll(is_end=True)
    assert len(ended) == 2, "at the end of the worker nothing runs any more"
