# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of the SDK's metrics, for the process that exports them.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_metric_points.py``.
"""

from __future__ import annotations

from opentelemetry.sdk.metrics._internal.exemplar import Exemplar

__all__ = ["Exemplar"]
