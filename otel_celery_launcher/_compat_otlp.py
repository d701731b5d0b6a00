# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's OTLP exporters.

What ``_compat.py`` says of itself holds here; the tests are in the same file. Imports
nothing, for the exporter process.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULES = tuple(
    f"opentelemetry.exporter.otlp.proto.{each}.trace_exporter"
    for each in ("grpc", "http")
)


def replace_encoder(encode: Callable[..., Any]) -> frozenset[str]:
    """Give the OTLP exporters another ``encode_spans`` (in the exporter process).

    Returns:
        The modules whose exporters use it from now on, of those that are imported.
    """
    found: list[Any] = [sys.modules[name] for name in _MODULES if name in sys.modules]
    replaced = [module for module in found if hasattr(module, "encode_spans")]
    for module in replaced:
        module.encode_spans = encode
    return frozenset(module.__name__ for module in replaced)
