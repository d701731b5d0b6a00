# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How large the ring may be: a bound in bytes, by the container's memory."""

from __future__ import annotations

from pathlib import Path

# The queue's bound: this, or a part of what the container may use.
QUEUE_BYTES = 64 * 1024 * 1024
QUEUE_SHARE = 0.05
QUEUE_BYTES_AT_LEAST = 4 * 1024 * 1024
KEPT_SHARE = 2
LOG_SHARE = 4
NO_LIMIT = 2**60  # cgroup v1 writes a number near 2**63 for none


def queue_bytes() -> int:
    """Return the bound of the queue: 64 MiB, or 5 % of the container's memory."""
    limits = [limit for path in _limit_files() if (limit := _read_limit(path))]
    if not limits:
        return QUEUE_BYTES
    share = int(min(limits) * QUEUE_SHARE)
    return max(QUEUE_BYTES_AT_LEAST, min(QUEUE_BYTES, share))


def log_queue_bytes(queue: int) -> int:
    """Return the bound of the queue of log records: a quarter of that of spans."""
    return max(QUEUE_BYTES_AT_LEAST, queue // LOG_SHARE)


def kept_bytes(queue: int) -> int:
    """Return the bound of what is received while no exporter process reads."""
    return max(QUEUE_BYTES_AT_LEAST, queue // KEPT_SHARE)


def _limit_files() -> list[Path]:
    """Return the files that may hold this process's memory limit (cgroup v2 and v1).

    Inside a container the group is the root of what is mounted; outside it is named in
    ``/proc/self/cgroup`` (cgroups(7)).
    """
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files.append(root / group.lstrip("/") / "memory.max")
        elif controllers == "memory":
            folder = root / "memory" / group.lstrip("/")
            files.append(folder / "memory.limit_in_bytes")
    return files


def _read_limit(path: Path) -> int:
    """Return a limit in bytes; 0 for none."""
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return 0
    return limit if limit < NO_LIMIT else 0
