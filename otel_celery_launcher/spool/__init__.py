# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery spool``: lists and sends what workers have left in a spool directory."""

from __future__ import annotations
