# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is told of tasks: the part of the settings that the spans of tasks follow.

Built once by ``Settings.from_environ`` from an environment whose bad values have been
replaced; the same in every process of a worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_celery_launcher.settings.checks import split_names
from otel_celery_launcher.settings.task_globs import Rules, split_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

# Characters of a task's arguments, where the rule says nothing else.
ARGUMENT_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What is told of tasks."""

    # The share of traces kept, of those that begin with such a task.
    sample: Rules[float] = field(default_factory=Rules)
    # Whose runs begin a trace of their own, linked to the publish.
    new_traces: Rules[bool] = field(default_factory=Rules)
    # Whose arguments are told, and how many characters of them.
    arguments: Rules[int] = field(default_factory=Rules)
    # Whose names have the value of an argument behind them, and the path to it.
    labels: Rules[str] = field(default_factory=Rules)
    # Entries of the baggage that become attributes.
    baggage: tuple[str, ...] = ()
    # Today's messaging conventions, and whether the names before them stay.
    has_messaging_names: bool = False
    has_older_names: bool = True
    # Whether Celery's own calls of its broker and result backend are spans.
    has_plumbing: bool = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> TaskSettings:
        """Read the variables that ``correct_environment`` left."""
        links = environ.get("OTEL_CELERY_TRACE") == "link"
        globs = split_names(environ.get("OTEL_CELERY_NEW_TRACE_TASKS", ""))
        opt_in = split_names(environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", ""))
        return cls(
            sample=Rules(
                (glob, float(ratio))
                for glob, ratio in split_rules(environ.get("OTEL_CELERY_SAMPLE", ""))
            ),
            new_traces=Rules(
                (glob, True) for glob in ([*globs, "*"] if links else globs)
            ),
            arguments=Rules(
                (glob, int(limit or ARGUMENT_CHARACTERS))
                for glob, limit in split_rules(
                    environ.get("OTEL_CELERY_CAPTURE_ARGS", "")
                )
            ),
            labels=Rules(split_rules(environ.get("OTEL_CELERY_TASK_NAME_FROM", ""))),
            baggage=tuple(
                split_names(environ.get("OTEL_CELERY_BAGGAGE_ATTRIBUTES", ""))
            ),
            has_messaging_names="messaging" in opt_in or "messaging/dup" in opt_in,
            has_older_names="messaging" not in opt_in or "messaging/dup" in opt_in,
            has_plumbing=environ.get("OTEL_CELERY_PLUMBING") != "false",
        )
