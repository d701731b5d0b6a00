# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Building the exporters, and counting what becomes of each batch.

A gRPC exporter opens its channel when it is made, and a channel must not live in a
process that forks afterwards (https://github.com/grpc/grpc/issues/31885). So the
classes are imported before any fork, which opens nothing and spares each child the
import, and the exporters are made after it, which does not touch the network.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExportResult

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery.around import ExporterAround
from otel_celery_launcher.delivery.export_log import error_text
from otel_celery_launcher.delivery.redaction import WithoutMessages
from otel_celery_launcher.delivery.sanitizing import cleaned
from otel_celery_launcher.settings.checks import load_component

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_celery_launcher.ipc.counters import Row


def load_exporter_classes(
    names: Sequence[str], *, hides_messages: bool
) -> tuple[list[Callable[[], SpanExporter]], list[str]]:
    """Import the classes of exporters by their entry point names.

    Args:
        names: Of the entry points.
        hides_messages: Whether messages of exceptions stay here.

    Returns:
        The classes, and a line for each that cannot be imported.
    """
    classes: list[Callable[[], SpanExporter]] = []
    problems: list[str] = []
    for name in names:
        try:
            make = load_component("opentelemetry_traces_exporter", name)
        except Exception as exc:  # noqa: BLE001, PERF203 - a stranger's module, at start
            problems.append(
                f"the exporter {name} cannot be imported ({exc}): no spans leave"
                " through it"
            )
        else:
            classes.append(partial(_make, make, hides_messages=hides_messages))
    return classes, problems


def late_exporter_classes(
    names: Sequence[str], *, hides_messages: bool
) -> tuple[list[Callable[[], SpanExporter]], list[str]]:
    """Return the same, with each class imported when it makes its first exporter."""

    def make(name: str) -> SpanExporter:
        found = load_component("opentelemetry_traces_exporter", name)
        return _make(found, hides_messages=hides_messages)

    return [partial(make, name) for name in names], []


# Modules whose exporters clean what they encode.
_encoding_modules: frozenset[str] = frozenset()


def use_own_encoder() -> None:
    """Let the OTLP exporters encode by ``encoding.py`` (in the exporter process).

    Imports protobuf; after ``load_exporter_classes``, which has imported the exporters.
    Where anything of it is not as expected, the SDK's encoder stays.
    """
    global _encoding_modules
    try:
        from otel_celery_launcher.exporter_process import span_encoder

        is_faithful = span_encoder.is_faithful()
    except Exception:  # noqa: BLE001 - of another release's encoder or protobuf
        return
    if is_faithful:
        _encoding_modules = otlp_exporters.replace_encoder(span_encoder.encode_spans)


def _make(make: Callable[[], SpanExporter], *, hides_messages: bool) -> SpanExporter:
    exporter = make()
    otlp_exporters.let_repeated_errors_through()
    if type(exporter).__module__ not in _encoding_modules:
        exporter = Cleaning(exporter)
    return WithoutMessages(exporter) if hides_messages else exporter


class Cleaning(ExporterAround):
    """An exporter that is given no value that it would refuse: ``cleaning.py``."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        return self._exporter.export(cleaned(spans))


_thread = threading.local()


def is_exporting() -> bool:
    """Return whether this thread is inside an export of ours."""
    return getattr(_thread, "is_exporting", False)


class CountingExporter(ExporterAround):
    """An exporter whose results go into the shared counters.

    Args:
        exporter: The exporter that sends.
        row: This process's row.
        after: Called after each export, in the exporting thread.
    """

    def __init__(
        self, exporter: SpanExporter, row: Row, after: Callable[[], None]
    ) -> None:
        super().__init__(exporter)
        self._row = row
        self._after = after
        self.handled = 0  # spans whose fate is known, delivered or not

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; a failure is counted and kept, never raised."""
        _thread.is_exporting = True
        try:
            result = self._exporter.export(spans)
        except Exception as exc:  # noqa: BLE001 - any exporter; counted and reported
            self._row.note_error(error_text(exc))
            result = SpanExportResult.FAILURE
        finally:
            _thread.is_exporting = False
        if result is SpanExportResult.SUCCESS:
            self._row.add_exported(len(spans))
        else:
            self._row.add_failed(len(spans))
        self.handled += len(spans)
        self._after()
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held here."""
        return True
