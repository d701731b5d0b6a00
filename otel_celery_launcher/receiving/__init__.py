# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Receiving OTLP: for ``tail``, the demo and the tests."""
