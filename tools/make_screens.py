"""Write tests/screens: what tail and doctor show, at several widths, plain and coloured.

make screens           # then look at what has changed
"""

from __future__ import annotations

import io
import os
import re
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.doctor.report import Report
from otel_celery_launcher.receiver.spans import ReceivedSpan
from otel_celery_launcher.tail import task_table
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.task_figures import TaskFigures
from otel_celery_launcher.tail.waterfall import arrange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parent.parent / "tests" / "screens"

STACK = """Traceback (most recent call last):
  File "/srv/.venv/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/shop/tasks.py", line 23, in mail
    raise ValueError(f"no address for order {order}")
ValueError: no address for order 3
"""


class Terminal(io.StringIO):
    """A text that takes colours."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def span(
    number: int, parent: int, name: str, kind: str, service: str, at: tuple[int, int],
    error: str = "", **attributes: Any,
) -> ReceivedSpan:  # fmt: skip
    """Return a span; ``at`` is its start and end in milliseconds."""
    events: tuple[tuple[str, dict[str, Any]], ...] = ()
    if error.startswith("no address"):
        event = {"exception.type": "ValueError", "exception.message": error}
        events = (("exception", event | {"exception.stacktrace": STACK}),)
    return ReceivedSpan(
        name=name, kind=kind, trace_id=f"{1:032x}", span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "", start=at[0] / 1e3,
        end=at[1] / 1e3, is_error=bool(error), status_text=error,
        attributes={key.replace("__", "."): each for key, each in attributes.items()},
        events=events, links=(), resource={"service.name": service}, scope="",
    )  # fmt: skip


def spans() -> list[ReceivedSpan]:
    """Return a trace with all that can be remarkable."""
    return [
        span(1, 0, "POST /checkout", "SERVER", "shop-web", (0, 120)),
        span(2, 1, "apply_async/pay", "PRODUCER", "shop-web", (20, 21)),
        span(3, 2, "run/pay", "CONSUMER", "shop-worker", (400, 700),
             celery__task_name="pay", celery__wait__broker=0.379,
             celery__retry__reason="Retry in 0.1s: ConnectionError('busy')"),
        span(4, 3, "POST https://bank.example/payments", "CLIENT", "shop-worker", (410, 690)),
        span(5, 1, "apply_async/mail", "PRODUCER", "shop-web", (30, 31)),
        span(6, 5, "run/mail", "CONSUMER", "mail-worker", (800, 827),
             error="no address for order 3", celery__task_name="mail",
             celery__wait__broker=0.769),
        span(7, 1, "apply_async/report", "PRODUCER", "shop-web", (40, 41)),
        span(8, 7, "run/report", "CONSUMER", "shop-worker", (100, 1500),
             error="Worker exited prematurely: signal 9 (SIGKILL) Job: 12.",
             error__type="billiard.exceptions.WorkerLostError",
             celery__lost=True, celery__task_name="report"),
        span(9, 1, "apply_async/index", "PRODUCER", "shop-web", (50, 51),
             celery__task_name="index"),
        span(10, 99, "run/入荷通知を送る", "CONSUMER", "mail-worker", (900, 950),
             celery__task_name="入荷通知を送る"),
    ]  # fmt: skip


def waterfall(
    columns: int, *, is_coloured: bool = False, has_stacks: bool = False
) -> str:
    """Return a trace on a terminal of that width; 0 for a pipe."""
    out = Terminal() if columns else io.StringIO()
    with of_columns(columns):
        Screen(out, has_stacks=has_stacks).show(arrange(spans()), "trace 1: a heading")
    return out.getvalue() if is_coloured else uncoloured(out.getvalue())


@contextmanager
def of_columns(columns: int) -> Iterator[None]:
    """Be on a terminal of that width, in colour, whatever runs the tests."""
    size = patch("shutil.get_terminal_size", lambda: _Size(columns))
    with size, patch.dict("os.environ", {"TERM": "xterm"}):
        os.environ.pop("NO_COLOR", None)
        yield


class _Size:
    def __init__(self, columns: int) -> None:
        self.columns = columns


def uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def table(columns: int) -> str:
    """Return the table of tasks."""
    figures = TaskFigures()
    figures.add(arrange(spans()))
    return "\n".join(task_table.lines(figures.rows(), columns)) + "\n"


FINDINGS = (
    Finding(level=OK, check="versions", seen="otel-celery 0.1.0, celery 5.7.0,"
            " opentelemetry-sdk 1.45.2, opentelemetry-instrumentation-celery 0.66b2"),
    Finding(level=FAIL, id="OC203", check="variables", source=".env.worker",
            seen="OTEL_CELERY_EXPROT is not a variable that anything here reads",
            next="write OTEL_CELERY_EXPORT", is_setting=True),
    Finding(level=OK, check="collector", seen="http://collector:4317 is reached"),
    Finding(level=FAIL, id="OC316", check="test span",
            seen="http://collector:4317 did not accept it: the collector does not accept"
            " the key (UNAUTHENTICATED: who are you)",
            next="check the key in OTEL_EXPORTER_OTLP_HEADERS, and that this endpoint is"
            " the one it was made for"),
    Finding(level=WARN, id="OC701", check="workers",
            seen="mail@w9 was not started by otel-celery",
            next="start it by otel-celery in the place of celery"),
    Finding(level=OK, check="workers", seen="2 of 2 started by otel-celery deliver",
            table=(("worker", "service", "release", "exported", "queued", "lost"),
                   ("celery@w1", "shop-worker", "0.1.0", "120944", "0", "0"),
                   ("celery@w2", "shop-worker", "0.1.0", "98", "12", "0"))),
)  # fmt: skip


def doctor(columns: int, *, is_coloured: bool = False) -> str:
    """Return what the doctor prints on a terminal of that width; 0 for a pipe."""
    out = Terminal() if columns else io.StringIO()
    with of_columns(columns):
        report = Report(out)
        for finding in FINDINGS:
            report.add(finding)
        report.end(FINDINGS)
    return out.getvalue() if is_coloured else uncoloured(out.getvalue())


SCREENS: dict[str, Callable[[], str]] = {
    "waterfall-pipe.txt": partial(waterfall, 0),
    "waterfall-pipe-stacks.txt": partial(waterfall, 0, has_stacks=True),
    **{f"waterfall-{n}.txt": partial(waterfall, n) for n in (80, 120, 200)},
    "waterfall-120.ansi": partial(waterfall, 120, is_coloured=True),
    "tasks-80.txt": partial(table, 80),
    "tasks-120.txt": partial(table, 120),
    "doctor-pipe.txt": partial(doctor, 0),
    **{f"doctor-{n}.txt": partial(doctor, n) for n in (80, 120, 200)},
    "doctor-80.ansi": partial(doctor, 80, is_coloured=True),
}


def main() -> None:
    """Write every screen."""
    FOLDER.mkdir(exist_ok=True)
    for name, screen in SCREENS.items():
        (FOLDER / name).write_text(screen())


if __name__ == "__main__":
    main()
