# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The worker's side of process mode: spans to frames, frames into the channel."""

from __future__ import annotations
