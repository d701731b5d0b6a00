# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the exporting process knows by itself: delivery, and CPU and memory of the worker.

Runs in the exporter process before each export, or in a process that exports inline.
The figures lie elsewhere (the counters, ``/proc``); here they become series of this
process's own row.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.metrics import builtin
from otel_celery_launcher.metrics.layout import Kind
from otel_celery_launcher.signals import METRICS, TRACES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_celery_launcher.ipc.counters import Counters
    from otel_celery_launcher.metrics.layout import Description
    from otel_celery_launcher.metrics.reader import PageReader
    from otel_celery_launcher.metrics.writer import Writer

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def put(
    writer: Writer, description: Description, value: float, **attributes: Any
) -> None:
    """Set a series of this process's row to a value that is known as a whole.

    Args:
        writer: Of this process.
        description: Of a kind that keeps the last value.
        value: The value.
        **attributes: With ``_`` for each dot, ``__`` for each underscore.
    """
    named = {
        name.replace("__", "\0").replace("_", ".").replace("\0", "_"): text
        for name, text in attributes.items()
        if text
    }
    cells, _ = writer.cells(description, tuple(sorted(named.items())))
    page = writer.page
    if description.kind is Kind.ABSOLUTE:  # it never falls, however it was read
        value = max(value, page.values[cells])
    page.values[cells] = value
    if description.kind is not Kind.ABSOLUTE:
        page.words[cells + 1] = time.time_ns()
    if not float(value).is_integer():
        page.words[cells + (1 if description.kind is Kind.ABSOLUTE else 2)] = 1


class Health:
    """Writes delivery, CPU and memory.

    Args:
        writer: Of this process.
        counters: The shared page of delivery.
        main: Process id of the worker's main process.
        component: ``otel.component.type`` of the exporter of spans; empty without one.
        metric_component: That of metrics.
    """

    def __init__(
        self,
        writer: Writer,
        counters: Counters,
        main: int,
        component: str,
        metric_component: str,
    ) -> None:
        self._writer = writer
        self._counters = counters
        self._main = main
        self._component = component
        self._metric_component = metric_component
        self._before: dict[str, float] | None = None

    def __call__(self, reader: PageReader) -> None:
        """Write what is known now."""
        if self._before is None:
            self._before = _used_before(reader)
        self._write_delivery()
        self._write_processes()

    def _write_delivery(self) -> None:
        spans, points = self._counters.of(TRACES), self._counters.of(METRICS)
        put(
            self._writer,
            builtin.POINTS_EXPORTED,
            points.exported,
            otel_component_type=self._metric_component,
        )
        if not self._component:
            return
        kind = {"otel_component_type": self._component}
        processor = {"otel_component_type": "batching_span_processor"}
        put(self._writer, builtin.EXPORTED, spans.exported, **kind)
        put(self._writer, builtin.EXPORTED, spans.failed, error_type="rejected", **kind)
        handled = spans.exported + spans.failed
        put(self._writer, builtin.PROCESSED, handled, **processor)
        put(
            self._writer,
            builtin.PROCESSED,
            spans.dropped,
            error_type="queue_full",
            **processor,
        )
        put(self._writer, builtin.QUEUE_SIZE, max(0, spans.queued), **processor)

    def _write_processes(self) -> None:
        for name, usage in usages(self._main):
            for mode in ("user", "system"):
                seconds = getattr(usage, mode)
                before = (self._before or {}).get(mode, 0.0)
                if name == "exporter":
                    seconds += before
                elif name == "children":  # the main process has reaped those, too
                    seconds = max(0.0, seconds - before)
                put(
                    self._writer,
                    builtin.CPU_TIME,
                    seconds,
                    cpu_mode=mode,
                    celery_process=name,
                )
            put(self._writer, builtin.MEMORY, usage.resident, celery_process=name)


def _used_before(reader: PageReader) -> dict[str, float]:
    """Return seconds of CPU that earlier exporter processes have used, by mode."""
    totals = reader.read(0, takes_exemplars=False).get(builtin.CPU_TIME, {})
    named = [(dict(total.items), total.value) for total in totals.values()]
    return {
        attributes["cpu.mode"]: seconds
        for attributes, seconds in named
        if attributes.get("celery.process") == "exporter"
    }


class Usage(NamedTuple):
    """What processes have used.

    Attributes:
        user: Seconds of CPU in user mode.
        system: Seconds of CPU in the kernel.
        resident: Bytes of memory.
    """

    user: float = 0.0
    system: float = 0.0
    resident: int = 0


def usages(main: int) -> Iterable[tuple[str, Usage]]:
    """Return what the worker's processes have used, by what they are.

    Args:
        main: Process id of the main process. The caller is its exporter process, or
            itself.
    """
    whole = _read(main)
    if whole is None:  # it has ended
        return []
    usage, ended_user, ended_system = whole
    found = [("main", usage)]
    me = os.getpid()
    user, system, resident = ended_user, ended_system, 0
    for pid in _children_of(main):
        child = None if pid == me else _read(pid)
        if child is not None:
            user, system = user + child[0].user, system + child[0].system
            resident += child[0].resident
    found.append(("children", Usage(user, system, resident)))
    if me != main and (own := _read(me)):
        found.append(("exporter", own[0]))
    return found


def _read(pid: int) -> tuple[Usage, float, float] | None:
    """Return what a process has used, and seconds of the children that it has reaped.

    Fields 14 to 17 and 24 of ``/proc/<pid>/stat`` (proc(5)).
    """
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
        fields = [int(each) for each in data.rpartition(b") ")[2].split()[11:22]]
    except (OSError, ValueError, LookupError):  # not Linux, or it has ended
        return None
    user, system, ended_user, ended_system = (each / _TICKS for each in fields[:4])
    return Usage(user, system, fields[10] * _PAGE), ended_user, ended_system


def _children_of(pid: int) -> list[int]:
    """Return the processes that all threads of a process have started (proc(5))."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found
