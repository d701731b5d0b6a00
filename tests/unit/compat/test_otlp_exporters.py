"""The OTLP exporters: private names that we lean on."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec

from otel_celery_launcher.compat import (
    otlp_exporters,
)


def test_the_exporters_filter_is_known_by_its_name() -> None:
    """Where this release has one: it swallows the second of two answers."""
    import_module("opentelemetry.exporter.otlp.proto.grpc.exporter")
    if find_spec("opentelemetry.sdk._shared_internal") is None:
        return  # an SDK that has none
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("opentelemetry.exporter")
        and isinstance(logger, logging.Logger)
    ]
    otlp_exporters.let_repeated_errors_through()
    assert [each.filters for each in loggers if each.filters] == []
    shared = import_module("opentelemetry.sdk._shared_internal")
    filters = [name for name in vars(shared) if name.endswith("Filter")]
    assert filters in ([], ["DuplicateFilter"])
