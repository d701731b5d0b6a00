"""What the exporters log, kept as an error."""

from __future__ import annotations

import logging

import pytest

from otel_celery_launcher.delivery.export_log import EXPORT_LOGGER, ExportLogHandler


def test_exporters_log_becomes_the_last_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[str] = []
    ExportLogHandler(errors.append).install()
    logger = logging.getLogger(f"{EXPORT_LOGGER}.otlp.proto.grpc.exporter")
    logger.warning(
        "Transient error %s encountered while exporting traces to c, retrying in 1s."
        " Error details: %s",
        "StatusCode.UNAVAILABLE",
        "connection\nrefused",
    )
    logger.error("something else")
    assert errors == ["UNAVAILABLE: connection refused", "something else"]
    assert not caplog.records
    logging.getLogger(EXPORT_LOGGER).handlers.clear()
    logging.getLogger(EXPORT_LOGGER).propagate = True
