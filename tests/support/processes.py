"""Processes of a worker: which are exporter processes, and what other users need."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path


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


# An interpreter in root's home is out of everybody else's reach. In a mount namespace,
# that home becomes an empty readable folder with only the interpreter in it.
READABLE_HOME = """mkdir -p {keep} && mount --bind {home} {keep} &&
mount -t tmpfs -o mode=755 none /root && mkdir -p {home} &&
mount --bind {keep} {home} &&"""


def readable_interpreter(folder: Path) -> str:
    """Return what a shell in a mount namespace does first, so that every user has Python.

    It ends in ``&&``; empty where the interpreter is nobody's.

    Args:
        folder: Of the test; it and those above become readable, too.
    """
    for each in (folder, *folder.parents[:-2]):
        each.chmod(0o755)
    home = "/".join(sys.base_prefix.split("/")[:3])
    if not home.startswith("/root/"):
        return ""
    return READABLE_HOME.format(keep=folder / "keep", home=home)
