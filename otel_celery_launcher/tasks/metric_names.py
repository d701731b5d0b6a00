# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Names as attributes of metrics: bounded in number, since anybody may publish under any.

Runs where a task runs or is published.
"""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.compat.celery_private import registered_tasks

# Written for names beyond the bounds below.
OTHER = "_OTHER"

# Different names of tasks that are registered nowhere here, of destinations, and of
# errors for each task, that one process tells apart.
NAMES = 200
ERRORS_PER_TASK = 50

# Queues that a broker names itself, and drops again.
_ANONYMOUS = ("amq.gen-", "amq_")


class BoundedNames:
    """Remembers the names that one process has used."""

    def __init__(self) -> None:
        self._destinations: set[str] = set()
        self._errors: dict[str, set[str]] = {}
        self._strangers: set[str] = set()

    def registered(self, app: Any, task: object) -> str:
        """Return the name of a task that is registered here, else ``_OTHER``."""
        is_known = isinstance(task, str) and task in registered_tasks(app)
        return str(task) if is_known else OTHER

    def known(self, app: Any, task: str) -> str:
        """Return the name of a task; of those registered elsewhere only NAMES."""
        if task in registered_tasks(app):
            return task
        return task if _is_added(self._strangers, task, NAMES) else OTHER

    def destination(self, name: str) -> str:
        """Return the name of a destination; empty for one that a broker has named."""
        if not name or name.startswith(_ANONYMOUS):
            return ""
        return name if _is_added(self._destinations, name, NAMES) else OTHER

    def error(self, task: str, error_type: str) -> str:
        """Return the type of an error of a task; empty for none."""
        if not error_type:
            return ""
        known = self._errors.setdefault(task, set())
        return error_type if _is_added(known, error_type, ERRORS_PER_TASK) else OTHER


def _is_added(names: set[str], name: str, limit: int) -> bool:
    if name not in names and len(names) < limit:
        names.add(name)
    return name in names
