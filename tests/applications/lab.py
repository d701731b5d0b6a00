"""An application in an environment of its own, with a broker and a collector."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.receiver.memory import Receiver

WAIT_SECONDS = 180

# Waits between two looks.
PAUSE = threading.Event()


@dataclass
class Lab:
    """Runs the commands of one application.

    Attributes:
        bin: Of its environment.
        folder: Where it keeps its files; its home.
        redis: URL of a Redis server, without a database.
        postgres: Port of a PostgreSQL server; its user is ``shop``.
        receiver: The collector.
        environ: What every command gets.
    """

    bin: Path
    folder: Path
    redis: str
    postgres: int
    receiver: Receiver
    environ: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environ = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        } | self.environ

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, *words: str, **environ: str) -> str:
        """Run a command to its end; return what it writes."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.environ | environ, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{words} ends with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def start(self, *words: str, **environ: str) -> Program:
        """Start a command that goes on."""
        log = self.folder / f"{len(self._started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environ | environ,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return Program(process, log)

    def wait_for_runs(self, count: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait for so many spans of runs."""
        self.receiver.wait_for(
            lambda spans: sum(s.kind == "CONSUMER" for s in spans) >= count, seconds
        )

    def roots(self) -> Counter[str]:
        """Return what traces begin with: role and kind of each root, counted."""
        return Counter(
            f"{span.resource.get('celery.role', '')} {span.kind}"
            for span in self.receiver.spans
            if not span.parent_id
        )

    def runs(self) -> Counter[str]:
        """Return the names of the runs, counted; fails if one came twice."""
        spans = [span for span in self.receiver.spans if span.kind == "CONSUMER"]
        assert len({span.span_id for span in spans}) == len(spans), "one came twice"
        return Counter(span.name for span in spans)


@dataclass
class Program:
    """A command that goes on."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(
        self, what: str | Callable[[], object], seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait for a text in the output, or for anything else."""
        end = time.monotonic() + seconds
        while not (what in self.output if isinstance(what, str) else what()):
            assert self.process.poll() is None, f"it has ended:\n{self.output[-4000:]}"
            assert time.monotonic() < end, f"no {what!r}:\n{self.output[-4000:]}"
            PAUSE.wait(0.1)

    def stop(self, seconds: float = 60) -> int:
        """Stop it as an operator does; return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
