# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Names for applications that have one task for everything: OTEL_CELERY_TASK_NAME_FROM.

Airflow runs each of its tasks as ``execute_workload``, others as ``run_job``. One
argument, which the user names, distinguishes them; its value is appended to the task's name.
Runs at each publish and each run of such a task, in the thread of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from otel_celery_launcher.errors import MALFORMED_ERRORS

# A label names a kind of work; longer or more numerous values name single jobs.
LABEL_CHARACTERS = 100
LABELS_KEPT = 1000

# JSON in an argument is read up to here.
JSON_CHARACTERS = 256 * 1024

ATTRIBUTE = "celery.task.label"


class Labels:
    """Labels in this process, limited in number."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def find(self, path: str, args: object, kwargs: object) -> str:
        """Return the label of a message, empty where it has none.

        Args:
            path: Position or name of an argument, then keys below it: ``0.ti.dag_id``.
            args: The positional arguments.
            kwargs: The named ones.
        """
        try:
            value = _follow(path.split("."), args, kwargs)
            label = str(value) if type(value) in (str, int) else ""
        except MALFORMED_ERRORS:  # a message may hold anything
            return ""
        if len(label) > LABEL_CHARACTERS or not label.isprintable():
            return ""
        if label not in self._known:
            if len(self._known) >= LABELS_KEPT:
                return ""
            self._known.add(label)
        return label


def _follow(path: Sequence[str], args: object, kwargs: object) -> object:
    first, *keys = path
    value: object
    if first.isdigit():
        value = args[int(first)] if isinstance(args, (list, tuple)) else None
    else:
        value = kwargs.get(first) if isinstance(kwargs, Mapping) else None
    for key in keys:
        if isinstance(value, str) and len(value) <= JSON_CHARACTERS:
            value = json.loads(value)
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, (list, tuple)) and key.isdigit():
            value = value[int(key)]
        else:
            return None
    return value
