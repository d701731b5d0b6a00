# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter process: reads the channel, queues, sends. Never imports Celery."""

from __future__ import annotations
