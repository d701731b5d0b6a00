"""The shop with a logging set-up of its own: JSON lines."""

from __future__ import annotations

import json
import logging

from celery import signals
from shop import app, noop  # noqa: F401


class Json(logging.Formatter):
    def format(self, record):
        return json.dumps(
            {
                "message": record.getMessage(),
                "trace": record.otelTraceID,
                "span": record.otelSpanID,
                "service": record.otelServiceName,
            }
        )


@signals.setup_logging.connect(weak=False)
def set_up(**_):
    handler = logging.StreamHandler()
    handler.setFormatter(Json())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
