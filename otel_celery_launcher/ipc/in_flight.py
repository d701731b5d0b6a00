# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The in-flight run of a pool child, in memory that all processes of a worker share.

A killed child cannot end its span. So it records the span when the run starts, and a
surviving process ends it (``killed_span``): with the id that the inner spans have as
their parent, and with all that was known at the start. The child writes the record. The
main process reads it (``tasks/killed.py``), or the exporter process if the main process
is killed. Each process claims a record (``Counters.claim_record``); that of a dead process
is free again when its run was ended.

A process may be killed anywhere. So the record's state changes directly after the
addition that counts the run, and directly before the call that sends its span, with no
other call between the two. A run is then counted once and has one span.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.trace import Event
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.ipc.span_decoder import EndedSpan, read_span
from otel_celery_launcher.ipc.span_frames import START_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

# pid, lengths of the task's id and of the frame, slot
_HEAD = struct.Struct("=IHHi")
_ID_BYTES = 64  # Celery's own are 36 characters long; what is longer is cut
RECORD_BYTES = 2048
assert _HEAD.size + _ID_BYTES + START_BYTES <= RECORD_BYTES  # noqa: S101 - of constants

# States of a record. Those of all records are adjacent, so one read finds all runs.
# An ENDING run is counted in the metrics, and its span has not left yet.
NONE, RUNNING, ENDING = 0, 1, 2

# ``text``, ``error.type`` and other attributes: what is known of the end of a run.
Reason = dict[str, str]

WORKER_LOST = "billiard.exceptions.WorkerLostError"


def recorded_id(task_id: str) -> str:
    """Return the id of a task as a record has it."""
    return task_id.encode("utf-8", "replace")[:_ID_BYTES].decode("utf-8", "replace")


class InFlightRun(NamedTuple):
    """A run that has begun, as it was recorded."""

    pid: int
    task_id: str
    frame: bytes  # the span at its start: ``span_frames.py``
    slot: int = 0  # of the pool
    is_counted: bool = False  # in the metrics

    @property
    def is_alive(self) -> bool:
        """Whether the process that runs it lives, or waits to be reaped."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # the number belongs to somebody else by now
            return False
        return True


class InFlightRecord:
    """Room for one run.

    Args:
        memory: ``RECORD_BYTES`` of the shared page.
        state: The byte of its state.
        slot: Of the pool: where what is written runs.

    Attributes:
        state: ``RUNNING``, ``ENDING`` from the moment on in which it is counted, ``NONE``
            from the moment on in which its span is sent.
    """

    def __init__(self, memory: memoryview, state: memoryview, slot: int) -> None:
        self._memory = memory
        self.state = state
        self._slot = slot

    def take(self, pid: int) -> None:
        """Make this the record of a process, which has recorded nothing so far."""
        self._memory[: _HEAD.size] = _HEAD.pack(pid, 0, 0, self._slot)

    def write(self, pid: int, task_id: str, frame: bytes) -> None:
        """Record a run; the state goes last, so that a reader sees all of it or nothing.

        Args:
            pid: Of the process that runs it.
            task_id: Of the task.
            frame: The span at its start: ``span_frames.py``.
        """
        self.state[0] = NONE
        task = task_id.encode("utf-8", "replace")[:_ID_BYTES]
        head = _HEAD.pack(pid, len(task), len(frame), self._slot)
        data = head + task + frame
        self._memory[: len(data)] = data
        self.state[0] = RUNNING

    def clear(self) -> None:
        """Forget the run: its span has ended."""
        self.state[0] = NONE

    @property
    def pid(self) -> int:
        """The process that has it, or had it last; 0 for none."""
        return int(_HEAD.unpack_from(self._memory)[0])

    @property
    def task_id(self) -> str:
        """The task's id of the run that was written last, whether it goes on or not."""
        length = _HEAD.unpack_from(self._memory)[1]
        task = self._memory[_HEAD.size : _HEAD.size + length]
        return bytes(task).decode("utf-8", "replace")

    def read(self) -> InFlightRun | None:
        """Return the run, None where there is none."""
        state = self.state[0]
        if state == NONE:
            return None
        memory = self._memory
        pid, id_length, length, slot = _HEAD.unpack_from(memory)
        middle = _HEAD.size + id_length
        return InFlightRun(
            pid,
            self.task_id,
            bytes(memory[middle : middle + length]),
            slot,
            state == ENDING,
        )


class ThreadRecords:
    """Records for tasks that run side by side in one process: in threads or greenlets.

    Has the methods of a record, for the run of the calling thread.

    Args:
        claim: Claims a record for a slot: ``Counters.claim_record``.
    """

    def __init__(self, claim: Callable[[int], InFlightRecord | None]) -> None:
        self._claim = claim
        self._free: list[InFlightRecord] = []
        self._used: dict[int, InFlightRecord] = {}
        self._none = memoryview(bytearray(1))

    def write(self, pid: int, task_id: str, frame: bytes) -> None:
        """Record a run: ``InFlightRecord.write``; nothing if no record is left."""
        thread = threading.get_ident()
        record = self._used.get(thread)
        if record is None:
            record = self._free.pop() if self._free else self._claim(len(self._used))
            if record is None:
                return
            self._used[thread] = record
        record.write(pid, task_id, frame)

    @property
    def state(self) -> memoryview:
        """The state of the run of this thread: ``InFlightRecord.state``."""
        record = self._used.get(threading.get_ident())
        return self._none if record is None else record.state

    def clear(self) -> None:
        """Forget the run of this thread."""
        record = self._used.pop(threading.get_ident(), None)
        if record is not None:
            record.clear()
            self._free.append(record)


# Of the run of the calling thread.
Record = InFlightRecord | ThreadRecords


def killed_span(
    run: InFlightRun, resource: Resource, ended: int, reason: Reason | None
) -> ReadableSpan:
    """Return the span of a run that its process did not end.

    Args:
        run: The run as it was recorded.
        resource: Of the process.
        ended: When its process was seen to be dead; nanoseconds since the epoch.
        reason: What is known of its end.

    Raises:
        FrameError: The record cannot be read.
    """
    reason = dict(reason or {})
    text = reason.pop("text", "the process of the task is gone")
    error_type = reason.pop("error.type", WORKER_LOST)
    start = read_span(resource, run.frame)
    exception = {"exception.type": error_type, "exception.message": text}
    end = max(ended, start.start_time or ended)
    return EndedSpan(
        name=start.name,
        context=start.context,
        parent=start.parent,
        resource=resource,
        attributes={
            **(start.attributes or {}),
            "celery.lost": True,
            "error.type": error_type,
            **reason,
        },
        events=[Event("exception", exception, end)],
        links=start.links,
        kind=start.kind,
        status=Status(StatusCode.ERROR, text),
        start_time=start.start_time,
        end_time=end,
        instrumentation_scope=start.instrumentation_scope,
    )
