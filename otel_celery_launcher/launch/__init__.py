# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How a process starts and ends, traced: Celery's own command line, and any other program."""

from __future__ import annotations
