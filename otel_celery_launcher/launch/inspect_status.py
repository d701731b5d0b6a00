# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``inspect otel_status``: what a worker's tracing does, asked over the broker.

Registered with Celery's remote control in two places: in each launched worker, which
answers, and in ``otel-celery inspect``, which has to know the name. Imports nothing of
OpenTelemetry; the answer is put together in the worker's main process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.worker.control import inspect_command

from otel_celery_launcher.compat import celery_private

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "otel_status"


# Who answers; nobody in a process that only asks.
_give: Callable[[], dict[str, Any]] | None = None


@inspect_command(name=NAME)  # type: ignore[untyped-decorator]
def otel_status(state: Any) -> dict[str, Any]:
    """Show what the worker's tracing does: received, exported and dropped spans."""
    return {} if _give is None else _give()


def answer_with(give: Callable[[], dict[str, Any]]) -> None:
    """Answer with what ``give`` returns (launcher of a worker)."""
    global _give
    _give = give


celery_private.add_inspect_method(NAME)
