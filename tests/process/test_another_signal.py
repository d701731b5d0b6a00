"""Another signal is a module on each side and a row: it takes all three routes.

A throw-away signal, ``notes``, of which nothing in the package knows: its items are texts,
its exporter appends them to a file, with the process in which it runs.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# The exporter process's side.
DECODER = """
import enum, os

class Answer(enum.Enum):
    SUCCESS = 0

def read_note(resource, frame):
    return f"{resource.attributes['service.name']} {frame.decode()}"

class FileExporter:
    def export(self, notes):
        with open(os.environ["NOTES"], "a") as file:
            file.writelines(f"{os.getpid()} {note}\\n" for note in notes)
        return Answer.SUCCESS

    def shutdown(self):
        pass
"""

ENTRY_POINTS = "[opentelemetry_notes_exporter]\nfile = throwaway:FileExporter\n"

# The worker's side: a row, a front's worth of calls, and the route that is asked for.
PROGRAM = '''
import os, sys
from opentelemetry.sdk.resources import Resource
from otel_celery_launcher.delivery.exporters import load_exporters
from otel_celery_launcher.ipc.channel import Channels
from otel_celery_launcher.ipc.counter_rows import POOL_ROWS
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.routes.delivery_log import DeliveryLog
from otel_celery_launcher.routes.handoff import HandoffRoute
from otel_celery_launcher.routes.inline import InlineRoute, InlineSignal
from otel_celery_launcher.routes.route import Outgoing
from otel_celery_launcher.routes.shared_queue import ExportedSignal, SharedQueue
from otel_celery_launcher.routes.supervisor import Supervisor
from otel_celery_launcher.routes.until_fork import UntilForkRoute
from otel_celery_launcher.signals import TRACES, Signal
from otel_celery_launcher.telemetry import traces

NOTES = Signal(
    number=2, name="notes", items="notes", path="/v1/notes",
    decoder="throwaway:read_note",
)

class Queue:
    """As the SDK's: puts together, exports at a flush."""

    def __init__(self, exporter):
        self.exporter, self.notes = exporter, []

    def put(self, note):
        self.notes.append(f"shop {note}")

    def force_flush(self):
        notes, self.notes = self.notes, []
        self.exporter.export(notes)

    shutdown = force_flush

counters, main = Counters(), ProcessClaim()
log = DeliveryLog(NOTES, counters, main, "a file")
outgoing = Outgoing(signal=NOTES, encode=str.encode, make_queue=Queue, put=Queue.put)

def inline():
    makers, problems = load_exporters(NOTES, ["file"], redacts_exceptions=False)
    assert not problems, problems
    signal = InlineSignal(outgoing=outgoing, exporters=list(makers.values()), pending_limit=100)
    return InlineRoute([signal], counters, log, holds=False, forks_safely=True)

def handoff():
    channels = Channels.make(has_logs=False)
    exported = [
        ExportedSignal(signal=TRACES, exporters=()),
        ExportedSignal(signal=NOTES, exporters=("file",)),
    ]
    queue = SharedQueue(0, channels.main, exported, counters, 8 * 1024 * 1024)
    supervisor = Supervisor([queue], counters, "shop")
    everything = [traces.OUTGOING, outgoing]
    return HandoffRoute(everything, channels, counters, log, supervisor, may_start=True)

routes = {
    "inline": inline, "handoff": handoff,
    "until_fork": lambda: UntilForkRoute(inline(), handoff),
}
route = routes[sys.argv[1]]()
resource = Resource({"service.name": "shop"})

def hand_over(note):
    route.hand_over(NOTES, note, resource, ends_work=True, ends_task=False)

route.main_started(forks=True)
hand_over("before")
child = os.fork()
if not child:
    route.child_started(POOL_ROWS[0])
    hand_over("child")
    route.close(5)
    os._exit(0)
os.waitpid(child, 0)
hand_over("after")
assert route.close(5)
figures = counters.of(NOTES)
print(os.getpid(), child, figures.exported, figures.lost)
'''


@pytest.mark.parametrize("route", ["inline", "handoff", "until_fork"])
def test_another_signal_takes_each_route(route: str, tmp_path: Path) -> None:
    """Each note arrives once, from where the route exports, and is counted as its own."""
    (tmp_path / "throwaway.py").write_text(DECODER)
    folder = tmp_path / "throwaway-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: throwaway\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    notes = tmp_path / "notes"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, route],
        env={"PYTHONPATH": str(tmp_path), "NOTES": str(notes), "PATH": "/usr/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    main, child, exported, lost = done.stdout.split()
    assert (exported, lost) == ("3", "0")
    pids = {}
    for line in notes.read_text().splitlines():
        pid, _, note = line.partition(" ")
        assert note not in pids, "it came twice"
        pids[note] = {main: "main", child: "child"}.get(pid, "exporter process")
    expected = {
        "inline": ("main", "child", "main"),
        "handoff": ("exporter process",) * 3,
        "until_fork": ("main", "exporter process", "exporter process"),
    }
    assert pids == dict(
        zip(("shop before", "shop child", "shop after"), expected[route], strict=True)
    )
