# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver for development and tests: gRPC, HTTP, forwarding, memory bounds."""

from __future__ import annotations
