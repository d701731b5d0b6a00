# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How telemetry leaves a process of the worker; runs there, and never in the exporter process."""

from __future__ import annotations
