# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry in one process: everything that is set up before the application is imported."""

from __future__ import annotations
