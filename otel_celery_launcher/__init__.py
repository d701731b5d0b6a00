# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry tracing for Celery by its command line: ``otel-celery``.

Importing this package starts nothing and reads no environment.
"""

from __future__ import annotations

__version__ = "0.1.0"
