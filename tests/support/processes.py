"""Which processes of a worker are exporter processes, and which run tasks."""

from __future__ import annotations

from contextlib import suppress

import psutil


def is_exporter(process: psutil.Process) -> bool:
    """Return whether it is an exporter process; False if it has just ended.

    Its name alone does not say so: it gets it once Python runs in it, which on a busy
    machine is after the worker has run its first task. Its helper, which asks the broker
    for the length of its queues, is started in the same way.
    """
    with suppress(psutil.NoSuchProcess):
        is_named: bool = process.name() == "otel-exporter"
        command = process.cmdline()
        is_helper = any("queues.depth" in word for word in command)
        return is_named or (command[1:3] == ["-I", "-S"] and not is_helper)
    return False


def without_exporters(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that are not exporter processes."""
    return [each for each in processes if not is_exporter(each)]
