"""Write docs/traces.md: a trace for each way in which a task can end.

make traces            # needs redis-server; two minutes
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from otel_celery_launcher.receiver.memory import Receiver
from otel_celery_launcher.receiver.spans import ReceivedSpan
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.waterfall import arrange
from tests.support.harness import Launcher, hanging_process
from tests.support.servers import base_environ, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parent.parent / "docs" / "traces.md"

HEAD = """\
# What a trace shows

This page shows one trace for each way that a task can end. `make traces` prints them from real workers.
The first span is the publish (`otel-celery call`, role producer). Below each trace you see the
attributes of its last span that show how the task ended. `wait` is the time in the broker and in the
worker, without the delay that a countdown asks for.
"""

# Attributes that show how a task ended.
SHOWN_ATTRIBUTES = (
    "celery.action",
    "celery.state",
    "celery.retry.reason",
    "celery.lost",
    "celery.redelivered",
    "celery.terminated.signal",
    "celery.wait.broker",
    "celery.wait.worker",
    "error.type",
)

# Heading, what to say, arguments of call, spans to wait for.
ENDINGS: tuple[tuple[str, str, tuple[str, ...], int], ...] = (
    ("Success", "", ("traces.add",), 2),
    ("Retries", "Each run is a child of the publish that caused it. A retry is not an error.",
     ("shop.flaky", "--args=[1]"), 4),
    ("Failure", "", ("traces.fail",), 2),
    ("An expected exception", "The task names the exception in `throws`. The state is FAILURE, but the span is not an error.",
     ("traces.expects",), 2),
    ("Reject", "", ("traces.rejects",), 2),
    ("Ignore", "", ("traces.ignores",), 2),
    ("Countdown", "The delay that the countdown asked for does not count as a wait.", ("traces.add", "--countdown=1"), 2),
    ("Hard time limit", "The child was killed. The main process ended the run's span, with the span"
     " id that the inner span has as\nits parent.", ("traces.limited",), 3),
    ("Killed", "The pool child got SIGKILL, as from the OOM killer. The span ends when the worker notices, up to five seconds later.", ("traces.hangs",), 3),
    ("Terminated", "The task was ended with `revoke(terminate=True)`.", ("traces.hangs",), 3),
    ("A task that exits", "", ("traces.exits",), 3),
    ("Lost and delivered again", "The task has `acks_late` and `reject_on_worker_lost`, so the broker delivered it again.",
     ("traces.again",), 5),
    ("Revoked before it ran", "", ("traces.add", "--countdown=6"), 2),
    ("Expired", "", ("traces.add", "--expires=2000-01-01T00:00:00Z"), 2),
    ("Unknown", "No worker of the queue knows the task.", ("nobody.knows",), 2),
)  # fmt: skip


class Stage:
    """A worker, a receiver, and what happens to a task."""

    def __init__(self, launcher: Launcher, receiver: Receiver, broker: str) -> None:
        self._launcher = launcher
        self._receiver = receiver
        self._client = redis.Redis.from_url(broker)
        self._interventions: dict[str, Callable[[str], None]] = {
            "Killed": self._kill,
            "Terminated": lambda task_id: self._revoke(task_id, "terminate"),
            "Revoked before it ran": lambda task_id: self._revoke(task_id, "revoke"),
        }

    def play(
        self, heading: str, call: tuple[str, ...], count: int
    ) -> list[ReceivedSpan]:
        """Publish, intervene, and return the trace."""
        self._receiver.clear()
        self._client.delete("hangs")
        found = self._launcher.run("-A", "traces", "call", *call)
        intervene = self._interventions.get(heading)
        if intervene is not None:
            intervene(found.stdout.strip())
        assert found.returncode == 0, found
        spans = self._receiver.wait_for(lambda spans: len(spans) >= count, 30)
        assert len(spans) == count, (heading, [span.name for span in spans])
        return spans

    def _kill(self, _: str) -> None:
        os.kill(hanging_process(self._client), signal.SIGKILL)

    def _revoke(self, task_id: str, how: str) -> None:
        if how == "terminate":
            hanging_process(self._client)
            self._launcher.run(
                "-A", "traces", "control", "terminate", "SIGTERM", task_id
            )
        else:
            self._launcher.run("-A", "traces", "control", "revoke", task_id)


def section(heading: str, text: str, spans: list[ReceivedSpan]) -> str:
    """Return the page's section about one ending."""
    last = max(
        (span for span in spans if span.kind == "CONSUMER"), key=lambda span: span.start
    )
    lines = []
    for name in SHOWN_ATTRIBUTES:
        value = last.attributes.get(name)
        if value is not None:
            shown = f"{value:.3f}" if isinstance(value, float) else value
            lines.append(f"{name} = {shown}")
    if last.status_text:
        lines.append(f"status: ERROR, {last.status_text}")
    trace = "\n".join([*Screen().plain(arrange(spans)), "", *lines])
    intro = f"{text}\n\n" if text else ""
    return f"\n## {heading}\n\n{intro}```text\n{trace}\n```\n"


def main() -> None:
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        environ = base_environ(Path(name)) | {
            "SHOP_BROKER": broker, "SHOP_BACKEND": broker,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_SERVICE_NAME": "shop",
            "OTEL_CELERY_SERVICE_NAME": "{name}-{role}",
        }  # fmt: skip
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", name]
        with (
            subprocess.Popen(command, stdout=subprocess.DEVNULL) as server,
            Launcher(Path(name), environ) as launcher,
        ):
            try:
                page = play_all(launcher, receiver, broker)
            finally:
                server.terminate()
    PAGE.write_text(page)


def play_all(launcher: Launcher, receiver: Receiver, broker: str) -> str:
    """Return the page."""
    launcher.worker(app="traces")
    stage = Stage(launcher, receiver, broker)
    page = HEAD
    for heading, text, call, count in ENDINGS:
        page += section(heading, text, stage.play(heading, call, count))
        print(heading, flush=True)
    return page


if __name__ == "__main__":
    main()
