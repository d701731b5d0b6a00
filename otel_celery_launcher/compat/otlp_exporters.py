# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's OTLP exporters; imports nothing of it.

For the exporter process.
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


def replace_encoder(encode: Callable[..., Any]) -> None:
    """Give the OTLP exporters another ``encode_spans`` (in the exporter process).

    Args:
        encode: Sanitizes what it encodes.
    """
    for name in _MODULES:
        module: Any = sys.modules.get(name)
        if hasattr(module, "encode_spans"):
            module.encode_spans = encode
            module.is_sanitizing = True


def is_sanitizing(exporter: object) -> bool:
    """Return whether an exporter has the encoder of ``replace_encoder``."""
    module = sys.modules.get(type(exporter).__module__)
    return getattr(module, "is_sanitizing", False)


def let_repeated_errors_through() -> None:
    """Let the exporters log each failure, in the process that exports.

    Since 1.34 a filter swallows a record whose format is that of the one before it, so
    that another answer of the collector is not heard (``DuplicateFilter``). What the
    exporters log goes into one line a minute of ours anyway: ``routes/delivery_log.py``.
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
