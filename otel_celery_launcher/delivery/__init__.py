# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""An exporter of the SDK and what a batch passes before it, in any process that exports."""

from __future__ import annotations
