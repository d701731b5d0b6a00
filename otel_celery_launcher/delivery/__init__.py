# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An exporter of the SDK and what stands before it, in whatever process exports."""

from __future__ import annotations
