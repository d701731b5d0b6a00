# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Queue depth in the exporter process: runs ``queues/depth.py`` at each interval.

In a thread of its own, and the broker is asked by a process of its own, which lives for
one question: neither a hanging broker nor the memory of its drivers is ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.metrics.health import put

if TYPE_CHECKING:
    from otel_celery_launcher.metrics.page import MetricPage
    from otel_celery_launcher.metrics.writer import Writer

# How long a question may take as a whole: kombu and its driver are imported, too.
ANSWER_SECONDS = 8.0

# Between two questions at least: each starts a process.
LEAST_SECONDS = 5.0

# The worker has to say first which queues it consumes from.
FIRST_SECONDS = 2.0

_PROGRAM = (
    "import json, sys;"
    " sys.path += json.loads(sys.argv[1]);"
    " from otel_celery_launcher.queues.depth import main; main()"
)


class QueueWatch:
    """Asks for the depth of the worker's queues.

    Args:
        writer: Of this process.
        page: Has the names of the queues.
        broker: What ``queues/depth.py`` needs besides; a secret.
        import_path: Of the application.
        interval: Seconds between two exports.
    """

    def __init__(
        self,
        writer: Writer,
        page: MetricPage,
        broker: dict[str, Any],
        import_path: list[str],
        interval: float,
    ) -> None:
        self._writer = writer
        self._page = page
        self._broker = broker
        self._import_path = import_path
        self._seconds = max(interval, LEAST_SECONDS)
        self._stopped = threading.Event()
        self._is_said = False

    def start(self) -> None:
        """Ask from now on."""
        threading.Thread(target=self._run, daemon=True, name="otel-queues").start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        seconds = FIRST_SECONDS
        while not self._stopped.wait(seconds):
            seconds = self._seconds
            if queues := self._page.queues:
                self._ask(queues)

    def _note(self, answer: dict[str, Any]) -> None:
        """Say once why there is no answer, unless the broker is away: Celery says that."""
        if not answer.get("is_away") and not self._is_said:
            self._is_said = True
            self._page.note_notice(
                "the number of messages in the broker's queues cannot be had"
                f" ({answer.get('error')}): celery.queue.messages is missing. Set"
                " OTEL_CELERY_QUEUE_METRICS=false, or look whether the transport can say it"
            )

    def _ask(self, queues: list[str]) -> None:
        """Ask once. Without an answer there is no value, and the next question may have one."""
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _PROGRAM,
                    json.dumps(self._import_path),
                ],
                input=json.dumps({**self._broker, "queues": queues}),
                capture_output=True,
                text=True,
                timeout=ANSWER_SECONDS,
                check=True,
                cwd="/",
            )
            answer = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return
        if "counts" in answer:
            self._put(answer["counts"])
        else:
            self._note(answer)

    def _put(self, counts: list[tuple[str, str, int]]) -> None:
        """Write what the broker has said."""
        for name, state, count in counts:
            if state == "consumers":
                put(
                    self._writer,
                    builtin.QUEUE_CONSUMERS,
                    count,
                    messaging_destination_name=name,
                )
            else:
                put(
                    self._writer,
                    builtin.QUEUE_MESSAGES,
                    count,
                    messaging_destination_name=name,
                    celery_queue_state=state,
                )
