"""Which processes of a worker are exporter processes, and which run tasks."""

from __future__ import annotations

from contextlib import suppress

import psutil


def is_exporter(process: psutil.Process) -> bool:
    """Return whether it is an exporter process; False if it has just ended.

    Its name alone does not say so: it gets it once Python runs in it, which on a busy
    machine is after the worker has run its first task.
    """
    with suppress(psutil.NoSuchProcess):
        is_named: bool = process.name() == "otel-exporter"
        return is_named or process.cmdline()[1:3] == ["-I", "-S"]
    return False


def without_exporters(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that are not exporter processes."""
    return [each for each in processes if not is_exporter(each)]
