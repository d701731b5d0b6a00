# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The variables, read once into one frozen object; runs before anything of OpenTelemetry."""

from __future__ import annotations
