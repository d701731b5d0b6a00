"""A sink of loguru's that is a handler of logging is found."""

from __future__ import annotations

import logging

from loguru import logger

from otel_celery_launcher.compat.loguru_sinks import is_loguru_apart


def test_a_sink_that_leads_to_logging_is_found() -> None:
    assert is_loguru_apart()
    number = logger.add(logging.NullHandler(), format="{message}")
    assert not is_loguru_apart()
    logger.remove(number)
    assert is_loguru_apart()
