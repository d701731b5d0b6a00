"""Components that an installed package would bring: an exporter, instrumentations."""

import os

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


class DjangoInstrumentor(_Instrumentor):
    def _instrument(self, **kwargs):
        raise SystemExit("Django's instrumentation has no place in a worker")


class BrokenInstrumentor(_Instrumentor):
    def _instrument(self, **kwargs):
        raise RuntimeError("on purpose")
