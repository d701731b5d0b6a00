# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The variables of the SDK's queues, which export inline: the same for each signal."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.settings import checks
from otel_celery_launcher.settings.variable import Variable


def batching(
    prefix: str, item: str
) -> tuple[Variable[int], Variable[int], tuple[Variable[Any], ...]]:
    """Return the rows of a queue: its size, that of one export, and all in order.

    Args:
        prefix: Of the names, behind ``OTEL_``.
        item: What it holds, in the singular.
    """
    items = f"{item}s"
    held = items.capitalize()
    delay, size, batch, timeout = (
        Variable(
            name=f"OTEL_{prefix}_{name}",
            kind="whole number over 0, below 2^31",
            help=text,
            check=checks.whole_number(1),
            parse=int,
            default=default,
            unit=unit,
        )
        for name, text, default, unit in (
            ("SCHEDULE_DELAY", f"Longest time a {item} waits. Inline export only.", "5000", "milliseconds"),
            ("MAX_QUEUE_SIZE", f"{held} held; further ones push out the oldest. Inline export only.", "2048", items),
            ("MAX_EXPORT_BATCH_SIZE", f"{held} in one export; at most the queue. Inline export only.", "512", items),
            ("EXPORT_TIMEOUT", "Read, but not used by the SDK.", "30000", "milliseconds"),
        )
    )  # fmt: skip
    return size, batch, (delay, size, batch, timeout)
