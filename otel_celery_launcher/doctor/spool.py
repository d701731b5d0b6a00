# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Is the spool directory usable, and does anything wait in it without an owner?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.exporter_process.spool import (
    SpoolError,
    check_private,
    shown,
    waiting_in,
)
from otel_celery_launcher.settings.settings import Mode

if TYPE_CHECKING:
    from otel_celery_launcher.settings.settings import Settings


def check_spool(settings: Settings) -> list[Finding]:
    """Return what is known of the spool directory; nothing without one."""
    if not settings.spool.directory:
        return []
    directory = Path(settings.spool.directory)
    name = shown(directory)
    if settings.mode is Mode.INLINE:
        seen = f"{name} is not used: spans leave {settings.mode.explained}"
        return [_finding(WARN, "OC216", seen, "unset OTEL_CELERY_EXPORT")]
    if not directory.exists():
        return [_missing(directory)]
    try:
        check_private(directory)
    except SpoolError as exc:
        return [_finding(FAIL, "OC214", str(exc), f"chmod go-w {name}")]
    free = shutil.disk_usage(directory).free
    if free < settings.spool.size:
        seen = f"{name} has {free:,} bytes free: expected {settings.spool.size:,}"
        return [_finding(FAIL, "OC214", seen, "OTEL_CELERY_SPOOL_BYTES=<fewer>")]
    waiting = waiting_in(directory)
    if waiting:
        seen = f"{waiting} spans wait in {name}, and no worker has their files"
        return [_finding(WARN, "OC215", seen, f"otel-celery spool --send {name}")]
    return [Finding(level=OK, check="spool", seen=f"{name}, nothing waits there")]


def _missing(directory: Path) -> Finding:
    parent = next(each for each in directory.parents if each.exists())
    if os.access(parent, os.W_OK):
        seen = f"{shown(directory)} is made when a worker starts"
        return Finding(level=OK, check="spool", seen=seen)
    seen = f"{shown(directory)} cannot be made: {shown(parent)} is not writable"
    return _finding(FAIL, "OC214", seen, "OTEL_CELERY_SPOOL_DIRECTORY=<one that is>")


def _finding(level: str, number: str, seen: str, next_: str) -> Finding:
    return Finding(level=level, id=number, check="spool", seen=seen, next=next_)
