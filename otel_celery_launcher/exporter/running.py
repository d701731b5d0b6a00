# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The run that a pool child is in, in the memory that all processes of a worker share.

A child that is killed ends no span. So it notes the identity of its run when it begins:
whoever outlives it ends the span in its stead, with the id under which the inner spans
were sent. Written by the child, read by the main process (and, when that is killed, by
the exporter process). A successor in the same slot keeps the note of its predecessor.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

# state, pid, start, trace id, span id, parent's span id, flags, lengths of the texts
_HEAD = struct.Struct("=BxxxIQ16s8s8sBBH")
_TEXT_BYTES = 256  # the task's id and name; what is longer is cut
NOTE_BYTES = _HEAD.size + _TEXT_BYTES

_NONE, _RUNNING = 0, 1


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A run as noted: ids as numbers, the start in nanoseconds since the epoch."""

    pid: int
    start: int
    trace_id: int
    span_id: int
    parent_id: int  # 0 for none
    flags: int
    task_id: str
    name: str

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


class RunNote:
    """Room for one run.

    Args:
        memory: ``NOTE_BYTES`` of the shared page.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def write(self, task: RunningTask) -> None:
        """Note a run; the state goes last, so that a reader sees all of it or nothing."""
        task_id = task.task_id.encode("utf-8", "replace")[:64]
        name = task.name.encode("utf-8", "replace")[: _TEXT_BYTES - len(task_id)]
        memory = self._memory
        memory[0] = _NONE
        _HEAD.pack_into(
            memory, 0, _NONE, task.pid, task.start,
            task.trace_id.to_bytes(16, "big"), task.span_id.to_bytes(8, "big"),
            task.parent_id.to_bytes(8, "big"), task.flags, len(task_id), len(name),
        )  # fmt: skip
        end = _HEAD.size + len(task_id)
        memory[_HEAD.size : end] = task_id
        memory[end : end + len(name)] = name
        memory[0] = _RUNNING

    def clear(self) -> None:
        """Forget the run: its span has ended."""
        self._memory[0] = _NONE

    def read(self) -> RunningTask | None:
        """Return the run, None where there is none."""
        memory = self._memory
        if memory[0] != _RUNNING:
            return None
        _, pid, start, trace_id, span_id, parent_id, flags, id_length, length = (
            _HEAD.unpack_from(memory)
        )
        end = _HEAD.size + id_length
        return RunningTask(
            pid,
            start,
            int.from_bytes(trace_id, "big"),
            int.from_bytes(span_id, "big"),
            int.from_bytes(parent_id, "big"),
            flags,
            bytes(memory[_HEAD.size : end]).decode("utf-8", "replace"),
            bytes(memory[end : end + length]).decode("utf-8", "replace"),
        )


class RunNotes:
    """The notes of one slot: of the child that is there, and of the one before it."""

    def __init__(self, memory: memoryview) -> None:
        self.current = RunNote(memory[:NOTE_BYTES])
        self.before = RunNote(memory[NOTE_BYTES : 2 * NOTE_BYTES])

    def take_over(self) -> None:
        """Keep the predecessor's note; called by a child that starts."""
        left = self.current.read()
        if left is not None and left.pid != os.getpid():
            self.before.write(left)
            self.current.clear()
