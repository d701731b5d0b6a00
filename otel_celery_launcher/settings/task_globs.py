# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Values by task name: ``emails.*=0.1, health.*=0``; the first glob that fits decides.

Read once by the launcher; asked at each publish and each run, in the thread of it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = TypeVar("Value")

# Limit of the cache: names come from messages, so their number is not bounded.
NAMES_KEPT = 10_000


class TaskGlobs(Generic[Value]):
    """Values by glob of task names.

    Args:
        globs: Globs, as of a shell, and their values, in order.
    """

    def __init__(self, globs: Iterable[tuple[str, Value]] = ()) -> None:
        self._globs = tuple(globs)
        self._known: dict[str, Value | None] = {}

    def __bool__(self) -> bool:
        return bool(self._globs)

    def get(self, task_name: str) -> Value | None:
        """Return the value for a task, None where no glob fits."""
        try:
            return self._known[task_name]
        except KeyError:
            pass
        match = next(
            (value for glob, value in self._globs if fnmatchcase(task_name, glob)), None
        )
        if len(self._known) < NAMES_KEPT:
            self._known[task_name] = match
        return match


def split_globs(text: str) -> list[tuple[str, str]]:
    """Return globs and the text after each one's ``=``, empty where there is none."""
    pairs = (item.partition("=") for item in text.split(",") if item.strip())
    return [(glob.strip(), value.strip()) for glob, _, value in pairs]
