# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A row of the table of settings."""

from __future__ import annotations

from dataclasses import dataclass

from otel_celery_launcher.settings.checks import Check


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: a variable, its type, default, unit and help, and its check."""

    name: str
    kind: str
    default: str
    help: str
    check: Check
    fallback: str
    unit: str = ""
    secret: bool = False
