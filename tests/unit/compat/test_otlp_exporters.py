"""The OTLP exporters: private names that we lean on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpExporter,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from otel_celery_launcher.compat import (
    otlp_exporters,
)
from otel_celery_launcher.delivery.answers import Answer, Verdict
from otel_celery_launcher.delivery.exporters import PreparedExporter
from otel_celery_launcher.receiver.memory import Receiver
from tests.support.otlp_http import QuietHandler, serve_http
from tests.support.spans import ended_span


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


def refuses(code: grpc.StatusCode, seconds: int = 0) -> Callable[[Any], None]:
    def answer(context: grpc.ServicerContext) -> None:
        if seconds:
            info = RetryInfo(retry_delay=Duration(seconds=seconds))
            data = info.SerializeToString()
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", data),))
        context.abort(code, "why")

    return answer


def sent_by_grpc(answer: Callable[[Any], None] | None) -> Answer:
    with Receiver(answer=answer) as receiver:
        prepared = PreparedExporter(GrpcExporter(receiver.endpoint), [])
        found = prepared.send([ended_span("a")])
        prepared.close()
    return found


def test_the_answers_of_a_grpc_collector_are_read() -> None:
    """One call each: the exporter's own retry is not used."""
    assert sent_by_grpc(None).verdict is Verdict.TAKEN
    answer = sent_by_grpc(refuses(grpc.StatusCode.INTERNAL))
    assert (answer.verdict, answer.error) == (Verdict.REFUSED, "INTERNAL: why")
    answer = sent_by_grpc(refuses(grpc.StatusCode.UNAVAILABLE, seconds=7))
    assert (answer.verdict, answer.wait_seconds) == (Verdict.LATER, 7.0)


def test_no_collector_is_an_answer_too() -> None:
    for exporter in (
        GrpcExporter("http://127.0.0.1:9"),
        HttpExporter("http://127.0.0.1:9/v1/traces"),
    ):
        answer = PreparedExporter(exporter, []).send([ended_span("a")])
        assert (answer.verdict, answer.is_unreachable) == (Verdict.LATER, True)
        assert answer.error


@contextmanager
def http_collector(
    status: int, headers: dict[str, str], content: bytes
) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serve_http(Handler) as address:
        yield f"{address}/v1/traces", seen


IN_PART = ExportTraceServiceResponse()
IN_PART.partial_success.rejected_spans = 1
IN_PART.partial_success.error_message = "too old"


@pytest.mark.parametrize(
    ("status", "headers", "content", "expected"),
    [
        (200, {}, b"", (Verdict.TAKEN, 0.0, 0)),
        (200, {}, IN_PART.SerializeToString(), (Verdict.TAKEN, 0.0, 1)),
        (200, {}, b"<html>", (Verdict.TAKEN, 0.0, 0)),
        (400, {}, b"no", (Verdict.REFUSED, 0.0, 0)),
        (413, {}, b"", (Verdict.TOO_LARGE, 0.0, 0)),
        (429, {"Retry-After": "3"}, b"", (Verdict.LATER, 3.0, 0)),
        (503, {}, b"", (Verdict.LATER, 0.0, 0)),
        (500, {}, b"", (Verdict.REFUSED, 0.0, 0)),
    ],
)
def test_the_answers_of_an_http_collector_are_read(
    status: int, headers: dict[str, str], content: bytes, expected: tuple[Any, ...]
) -> None:
    """One request each."""
    with http_collector(status, headers, content) as (endpoint, seen):
        prepared = PreparedExporter(HttpExporter(endpoint), [])
        answer = prepared.send([ended_span("a")])
        prepared.close()
    assert (answer.verdict, answer.wait_seconds, answer.rejected) == expected
    assert seen == ["/v1/traces"]
