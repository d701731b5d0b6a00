# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The pool a worker will have, on this platform, and how its spans leave."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.settings.settings import Mode

if TYPE_CHECKING:
    from otel_celery_launcher.settings.settings import Settings

# Pools that patch the interpreter; Celery does so only for what is on the command line
# (https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-pool).
GREEN_POOLS = ("gevent", "eventlet")


def check_pool(
    app: Any, given: str | None, settings: Settings, platform: str = sys.platform
) -> list[Finding]:
    """Look at the pool; starts nothing.

    Args:
        app: The application; None where it does not import.
        given: The pool on the command line, if one is.
        settings: As a worker would have them.
        platform: ``sys.platform``.
    """
    configured = "prefork" if app is None else str(app.conf.worker_pool)
    pool = given or configured
    findings = []
    if not given and pool in GREEN_POOLS:
        seen = f"{pool} is set in the configuration, where it is too late to patch"
        findings.append(_finding(WARN, seen, "OC501", f"otel-celery worker -P {pool}"))
    if pool in GREEN_POOLS and find_spec(pool) is None:
        seen = f"{pool} is not installed: the worker will not start"
        findings.append(_finding(FAIL, seen, "OC502", f"pip install 'celery[{pool}]'"))
    if pool in GREEN_POOLS and settings.mode is Mode.INLINE:
        seen = f"inline export blocks the hub of {pool}"
        findings.append(_finding(WARN, seen, "OC503", "unset OTEL_CELERY_EXPORT"))
    if platform == "win32" and pool == "prefork":
        seen = "Celery has no prefork pool on Windows"
        findings.append(_finding(FAIL, seen, "OC504", "otel-celery worker -P threads"))
    elif not platform.startswith("linux"):
        seen = f"{platform}: tested on Linux only"
        findings.append(_finding(WARN, seen, "OC505", "run the tests there: make test"))
    summary = f"{pool} on {platform}, spans leave {settings.mode.explained}"
    return findings or [_finding(OK, summary)]


def _finding(level: str, seen: str, number: str = "", next_: str = "") -> Finding:
    return Finding(level=level, id=number, check="pool", seen=seen, next=next_)
