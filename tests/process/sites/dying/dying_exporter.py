"""An exporter whose import ends the exporter process; and one that is not found there."""

from __future__ import annotations

import os

if "_OTEL_CELERY_EXPORTER" in os.environ:
    if "dies" in os.environ["OTEL_TRACES_EXPORTER"]:
        os._exit(1)  # a missing library, RLIMIT_AS, the OOM killer
    raise ImportError("not in this process")

from opentelemetry.sdk.trace.export import ConsoleSpanExporter


class Dying(ConsoleSpanExporter):
    """Never made."""
