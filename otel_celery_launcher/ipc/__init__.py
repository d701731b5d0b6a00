# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the worker and its exporter process share: the bytes on the channel, and a page of memory."""

from __future__ import annotations
