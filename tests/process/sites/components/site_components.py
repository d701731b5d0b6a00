"""Components that an installed package would bring: an exporter, instrumentations."""

from __future__ import annotations

import os
import sqlite3

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class FileExporter(SpanExporter):
    def export(self, spans):
        with open(os.environ["SITE_FILE"], "a") as file:
            file.writelines(f"{span.name}\n" for span in spans)
        return SpanExportResult.SUCCESS


class _Instrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return []

    def _uninstrument(self, **kwargs):
        pass


class Sqlite3Instrumentor(_Instrumentor):
    """A span for each connection; `from sqlite3 import connect` must come later."""

    def _instrument(self, **kwargs):
        connect = sqlite3.connect

        def traced(*args, **kwargs):
            with trace.get_tracer("sqlite3").start_as_current_span("connect"):
                return connect(*args, **kwargs)

        sqlite3.connect = traced


class DjangoInstrumentor(_Instrumentor):
    def _instrument(self, **kwargs):
        raise SystemExit("Django's instrumentation has no place in a worker")


class BrokenInstrumentor(_Instrumentor):
    def _instrument(self, **kwargs):
        raise RuntimeError("on purpose")
