# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How spans leave: an exporter for each process (inline), and what became of them."""

from __future__ import annotations
