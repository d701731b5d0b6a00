# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery bootstrap``: which instrumentations fit what is installed."""

from __future__ import annotations
