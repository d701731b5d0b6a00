# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The entry of beat's schedule that a publish comes from: ``celery.schedule.entry``.

Runs in beat, and in the embedded beat of ``worker -B``.
"""

from __future__ import annotations

from contextvars import ContextVar

# Name of the entry that is being published; empty outside of beat.
current_entry: ContextVar[str] = ContextVar("otel_celery_schedule_entry", default="")
