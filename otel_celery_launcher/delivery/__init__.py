# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The SDK's exporters, and how batches are prepared for them, in any process."""

from __future__ import annotations
