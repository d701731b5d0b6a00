# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is recorded about tasks: the part of the settings that their spans follow.

Built once by ``Settings.from_environ`` from an environment whose bad values have been
replaced; the same in every process of a worker. A bad part of a value falls back to the
more private and cheaper side: a ratio to 0, an argument to none.
"""

from __future__ import annotations

from typing import NamedTuple

from otel_celery_launcher.settings.checks import BadValueError, split_names
from otel_celery_launcher.settings.task_globs import TaskGlobs, split_globs

# Characters of a task's arguments, where the glob says nothing else.
ARGUMENT_CHARACTERS = 256


class TaskSettings(NamedTuple):
    """What is recorded about tasks."""

    # The share of traces kept, for traces that start with such a task.
    sample: TaskGlobs[float] = TaskGlobs()
    # Tasks whose runs start a trace of their own, linked to the publish.
    new_traces: TaskGlobs[bool] = TaskGlobs()
    # Tasks whose arguments are recorded, and how many characters of them.
    arguments: TaskGlobs[int] = TaskGlobs()
    # Tasks whose names are followed by the value of an argument, and the path to it.
    labels: TaskGlobs[str] = TaskGlobs()
    # Entries of the baggage that become attributes.
    baggage: tuple[str, ...] = ()
    # Today's messaging conventions, and whether the names before them stay.
    has_messaging_names: bool = False
    has_older_names: bool = True
    # Whether Celery's own calls of its broker and result backend are spans.
    has_plumbing: bool = True


def ratios_of(text: str) -> TaskGlobs[float]:
    """Return the ratios of OTEL_CELERY_SAMPLE."""
    return TaskGlobs((glob, float(ratio)) for glob, ratio in split_globs(text))


def character_limits_of(text: str) -> TaskGlobs[int]:
    """Return the numbers of characters of OTEL_CELERY_CAPTURE_ARGS."""
    return TaskGlobs(
        (glob, int(limit or ARGUMENT_CHARACTERS)) for glob, limit in split_globs(text)
    )


def paths_of(text: str) -> TaskGlobs[str]:
    """Return the paths of arguments of OTEL_CELERY_TASK_NAME_FROM."""
    return TaskGlobs(split_globs(text))


# https://opentelemetry.io/docs/specs/semconv/non-normative/ (one migration page each),
# and what the Python instrumentations read beside them.
STABILITY_NAMES = frozenset(
    {
        *(
            f"{name}{suffix}"
            for name in ("code", "database", "http", "k8s", "messaging", "rpc")
            for suffix in ("", "/dup")
        ),
        "gen_ai_latest_experimental",
    }
)

# A header of baggage is 8,192 bytes at most; so is any name in it.
_NAME_CHARACTERS = 256

# More characters than there is memory for; Python reads no number of thousands of digits.
_SIZE_DIGITS = 10
_POSITION_DIGITS = 3


def sample(value: str) -> str:
    """Accept globs with ratios from 0 to 1; any other ratio is 0."""
    globs = split_globs(value)
    good = [(glob, ratio if _is_ratio(ratio) else "0") for glob, ratio in globs if glob]
    expected = "glob=ratio with ratios from 0 to 1, such as emails.*=0.1"
    return _accept(value, globs, good, expected)


def capture(value: str) -> str:
    """Accept globs, each with a number of characters or without."""
    globs = split_globs(value)
    good = [
        (glob, size) for glob, size in globs if glob and (not size or _is_size(size))
    ]
    expected = "globs, or glob=characters, such as orders.*=200"
    return _accept(value, globs, good, expected)


def task_names(value: str) -> str:
    """Accept globs, each with the path of an argument."""
    globs = split_globs(value)
    good = [(glob, path) for glob, path in globs if glob and _is_path(path)]
    expected = "glob=argument, such as run_job=0,execute_workload=0.ti.dag_id"
    return _accept(value, globs, good, expected)


def baggage_names(value: str) -> str:
    """Accept names; there is no name for all of them."""
    names = split_names(value)
    good = [
        name for name in names if name.isprintable() and not set(name) & set(" *=;")
    ]
    good = [name for name in good if len(name) <= _NAME_CHARACTERS]
    if good != names or not names:
        raise BadValueError("names, such as tenant_id", ",".join(good) or None)
    return value


def stability(value: str) -> str:
    """Accept the names of conventions that one can opt in to."""
    names = split_names(value)
    known = [name for name in names if name in STABILITY_NAMES]
    if known != names:
        raise BadValueError(
            "names such as messaging, messaging/dup, http", ",".join(known) or None
        )
    return value


def _is_path(text: str) -> bool:
    """Return whether a path can be followed."""
    parts = text.split(".")
    return all(
        part.isidentifier() or (part.isdigit() and len(part) <= _POSITION_DIGITS)
        for part in parts
    )


def _is_ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_size(text: str) -> bool:
    is_number = text.isascii() and text.isdigit() and len(text) <= _SIZE_DIGITS
    return is_number and int(text) > 0


def _accept(
    value: str, globs: list[tuple[str, str]], good: list[tuple[str, str]], expected: str
) -> str:
    """Return a value whose globs are all good; else name the good ones."""
    if globs and good == globs:
        return value
    items = [f"{glob}={text}" if text else glob for glob, text in good]
    raise BadValueError(expected, ",".join(items) or None)
