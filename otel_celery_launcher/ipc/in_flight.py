# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The run that a pool child is in, in the memory that all processes of a worker share.

A child that is killed ends no span. So it notes the span of its run when it begins:
whoever outlives it ends the span in its stead, with the id under which the inner spans
were sent, and with all that was known at its start. Written by the child, read by the
main process (and, when that is killed, by the exporter process). A successor in the same
slot keeps the note of its predecessor.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from otel_celery_launcher.ipc.span_frames import START_BYTES

# pid, lengths of the task's id and of the frame
_HEAD = struct.Struct("=IHH")
_ID_BYTES = 64  # Celery's own are 36 characters long; what is longer is cut
NOTE_BYTES = 2048
assert _HEAD.size + _ID_BYTES + START_BYTES <= NOTE_BYTES  # noqa: S101 - of constants

# Of a note; those of all notes lie side by side, so that one look finds who runs.
NONE, RUNNING = 0, 1


class RunningTask(NamedTuple):
    """A run as noted."""

    pid: int
    task_id: str
    frame: bytes  # the span at its start: ipc/span_frames.py

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
        state: The byte of its state.
    """

    def __init__(self, memory: memoryview, state: memoryview) -> None:
        self._memory = memory
        self._state = state

    def write(self, pid: int, task_id: str, frame: bytes) -> None:
        """Note a run; the state goes last, so that a reader sees all of it or nothing.

        Args:
            pid: Of the process that runs it.
            task_id: Of the task.
            frame: The span at its start: ``ipc/span_frames.py``.
        """
        self._state[0] = NONE
        task = task_id.encode("utf-8", "replace")[:_ID_BYTES]
        data = _HEAD.pack(pid, len(task), len(frame)) + task + frame
        self._memory[: len(data)] = data
        self._state[0] = RUNNING

    def clear(self) -> None:
        """Forget the run: its span has ended."""
        self._state[0] = NONE

    def read(self) -> RunningTask | None:
        """Return the run, None where there is none."""
        if self._state[0] != RUNNING:
            return None
        memory = self._memory
        pid, id_length, length = _HEAD.unpack_from(memory)
        middle = _HEAD.size + id_length
        return RunningTask(
            pid,
            bytes(memory[_HEAD.size : middle]).decode("utf-8", "replace"),
            bytes(memory[middle : middle + length]),
        )


class RunNotes:
    """The notes of one slot: of the child that is there, and of the one before it.

    Args:
        memory: Twice ``NOTE_BYTES`` of the shared page.
        states: Their two states.
    """

    def __init__(self, memory: memoryview, states: memoryview) -> None:
        self.current = RunNote(memory[:NOTE_BYTES], states[:1])
        self.before = RunNote(memory[NOTE_BYTES:], states[1:])

    def take_over(self) -> None:
        """Keep the predecessor's note; called by a child that starts."""
        left = self.current.read()
        if left is not None and left.pid != os.getpid():
            self.before.write(*left)
            self.current.clear()
