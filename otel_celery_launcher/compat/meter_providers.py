# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's metrics API and SDK.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_meter_providers.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import _Gauge as Gauge
from opentelemetry.metrics import _internal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Gauge", "has_meter_provider", "let_application_replace", "serve_reader"]


def has_meter_provider() -> bool:
    """Return whether a global meter provider has been set in this process."""
    return _internal._METER_PROVIDER is not None


def let_application_replace(on_replaced: Callable[[Any], object]) -> None:
    """Let an application set its own meter provider, though ours is set already.

    The API would refuse it with a warning, and its views and readers would be lost.
    Instruments that exist already keep ours.

    Args:
        on_replaced: Called with the application's provider.
    """

    def set_meter_provider(meter_provider: Any) -> None:
        _internal._METER_PROVIDER = meter_provider
        _internal._PROXY_METER_PROVIDER._real_meter_provider = meter_provider
        on_replaced(meter_provider)

    metrics.set_meter_provider = set_meter_provider
    _internal.set_meter_provider = set_meter_provider


def serve_reader(reader: Any, collect: Callable[[], Any]) -> None:
    """Let a pull reader of the SDK (Prometheus) serve metrics that we collect.

    Args:
        reader: A ``MetricReader``.
        collect: Returns ``MetricsData``.
    """

    def give(asked: Any, timeout_millis: float = 10_000) -> None:
        del asked
        reader._receive_metrics(collect(), timeout_millis=timeout_millis)

    reader._set_collect_callback(give)
