# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's OTLP exporters.

What ``compat/providers.py`` says of itself holds here; the tests are in the same file. Imports
nothing, for the exporter process.
"""

from __future__ import annotations

import logging
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


def let_repeated_errors_through() -> None:
    """Let the exporters log each failure, in the process that exports.

    Since 1.34 a filter swallows a record whose format is that of the one before it, so
    that another answer of the collector is not heard (``DuplicateFilter``). What the
    exporters log goes into one line a minute of ours anyway: ``reporter.py``.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("opentelemetry.exporter") and isinstance(
            logger, logging.Logger
        ):
            logger.filters[:] = [
                each
                for each in logger.filters
                if type(each).__name__ != "DuplicateFilter"
            ]
