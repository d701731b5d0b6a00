# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery demo``: the trace of a real task, with nothing else installed."""

from __future__ import annotations
