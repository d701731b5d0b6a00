"""Exporters that end the exporter process, break it, or are not found there."""

from __future__ import annotations

import os


def fail(*_):
    """Raise, as a bug would: its message is long, and has lines."""
    raise RuntimeError("two\nlines" + " and more" * 50)


if "_OTEL_CELERY_EXPORTER" in os.environ:
    exporter = os.environ["OTEL_TRACES_EXPORTER"]
    if exporter == "dies":
        os._exit(1)  # a missing library, RLIMIT_AS, the OOM killer
    elif exporter == "breaks_sending":
        from otel_celery_launcher.exporter_process.pipeline import Pipeline

        Pipeline._next_batch = fail
    elif exporter == "breaks_reading":
        from otel_celery_launcher.exporter_process.server import Server

        Server._receive = fail
    else:
        raise ImportError("not in this process")

from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: E402


class Dying(ConsoleSpanExporter):
    """Never made."""
