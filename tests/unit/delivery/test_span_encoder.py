"""The encoder of the exporter process makes what the SDK's encoder makes."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import (
    encode_spans as encode_spans_slowly,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery import otlp_wire, span_encoder
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.delivery.span_encoder import encode_spans
from otel_celery_launcher.ipc.span_decoder import bounded, read_span
from otel_celery_launcher.ipc.span_frames import encode_span
from tests.support.strategies import contexts

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 127, 128, 2**63 - 1])
)
values = st.one_of(
    *(texts, st.booleans(), numbers, st.floats(allow_nan=False), st.binary(max_size=9)),
    *(st.lists(texts, max_size=3), st.tuples(numbers), st.none()),
)
attributes = st.dictionaries(texts, values, max_size=6)
resources = [Resource({"service.name": name}, "https://r") for name in ("a", "b")]
scopes = [None, *(InstrumentationScope(name, "1", "https://s") for name in ("s", "t"))]
spans = st.builds(
    ReadableSpan,
    name=texts,
    context=contexts,
    parent=st.none() | contexts,
    resource=st.sampled_from(resources),
    attributes=st.none() | attributes,
    events=st.just(()) | st.just([Event("e", {"k": 1}, 5)]),
    links=st.just(()) | st.just([Link(SpanContext(1, 2, is_remote=True))]),
    kind=st.sampled_from(SpanKind),
    status=st.just(Status())
    | st.just(Status(StatusCode.OK))
    | st.just(Status(StatusCode.ERROR, "why")),
    start_time=st.integers(0, 2**63),
    end_time=st.integers(0, 2**63),
    instrumentation_scope=st.sampled_from(scopes),
)


def framed(span: ReadableSpan) -> ReadableSpan:
    """Return a span as the exporter process reads it."""
    return read_span(span.resource, encode_span(span))


def told(request: Any) -> Counter[tuple[bytes, bytes, bytes]]:
    """Return the spans of a request with their resource and scope, in any order."""
    return Counter(
        (
            block.resource.SerializeToString() + block.schema_url.encode(),
            part.scope.SerializeToString() + part.schema_url.encode(),
            span.SerializeToString(),
        )
        for block in request.resource_spans
        for part in block.scope_spans
        for span in part.spans
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(spans, max_size=5))
@example([])
def test_a_request_is_what_the_sdk_makes(given_spans: list[ReadableSpan]) -> None:
    found = encode_spans([framed(each) for each in given_spans])
    assert told(found) == told(encode_spans_slowly(given_spans))


def a_span(**given: Any) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    fields = {"name": "n", "context": context, "start_time": 1, "end_time": 2} | given
    return framed(ReadableSpan(**fields))


def test_the_usual_spans_of_a_worker_are_one_block() -> None:
    given_spans = [
        a_span(resource=resources[0], attributes={"a": number}) for number in range(99)
    ]
    assert encode_spans(given_spans) == encode_spans_slowly(given_spans)


def test_what_was_dropped_is_told() -> None:
    span = a_span(attributes=bounded({"k": 1}, 3))
    assert encode_spans([span]) == encode_spans_slowly([span])
    (found,) = encode_spans([span]).resource_spans[0].scope_spans[0].spans
    assert found.dropped_attributes_count == 3


@pytest.mark.parametrize("bad", ["\ud800", 2**63, {"k": "\ud800"}, -(2**70)])
def test_values_that_no_encoder_takes_are_cleaned(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good, span = a_span(name="good"), a_span(attributes={"bad": bad, "k": 1})
    with caplog.at_level(logging.DEBUG):
        found = told(encode_spans([good, span]))
    assert found == told(encode_spans_slowly([good, *sanitize([span])]))
    assert not caplog.records


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_names_that_no_encoder_takes_are_cleaned(text: str) -> None:
    (found,) = encode_spans([a_span(name=text)]).resource_spans[0].scope_spans[0].spans
    assert found.name == text.encode("utf-8", "replace").decode()


def test_another_resource_at_the_same_address_is_another_resource() -> None:
    """They are known by identity; one may go and another take its place."""
    for number in range(3 * otlp_wire.GROUPS_KEPT):
        scope, resource = InstrumentationScope(str(number)), Resource({"n": number})
        span = a_span(resource=resource, instrumentation_scope=scope)
        (block,) = encode_spans([span]).resource_spans
        assert block.resource.attributes[0].value.int_value == number
        assert block.scope_spans[0].scope.name == str(number)


def test_long_names_are_not_kept() -> None:
    """A pipeline of Redis commands is one name, and another each time."""
    before = span_encoder._kept_name.cache_info().currsize
    given_spans = [a_span(name="x" * 1000 + str(number)) for number in range(9)]
    assert told(encode_spans(given_spans)) == told(encode_spans_slowly(given_spans))
    assert span_encoder._kept_name.cache_info().currsize == before


def test_looking_at_the_encoder_asks_no_resource_detector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Resource, "create", lambda *_: 1 / 0)
    assert span_encoder.is_faithful()


def test_the_installed_sdk_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert span_encoder.is_faithful()
    monkeypatch.setattr(span_encoder, "_END", b"")
    assert not span_encoder.is_faithful()


def test_the_exporters_use_the_encoder_that_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

    for module in (grpc, http):
        monkeypatch.setattr(module, "encode_spans", module.encode_spans)
        monkeypatch.setattr(module, "is_sanitizing", False, raising=False)
    given_spans: list[object] = []

    def encode(spans: Any) -> Any:
        given_spans.append(spans)
        return encode_spans(spans)

    otlp_exporters.replace_encoder("encode_spans", encode)
    assert [module.encode_spans for module in (grpc, http)] == [encode, encode]
    exporter = grpc.OTLPSpanExporter(endpoint="http://127.0.0.1:1", insecure=True)
    assert otlp_exporters.is_sanitizing(exporter)
    assert not otlp_exporters.is_sanitizing(object())
    assert exporter._translate_data([a_span()]) == encode_spans([a_span()])
    http_exporter = http.OTLPSpanExporter(endpoint="http://127.0.0.1:1", timeout=1)
    with suppress(OSError):  # nobody listens; older exporters raise
        http_exporter.export([a_span()])
    assert len(given_spans) == 2
    exporter.shutdown()
    http_exporter.shutdown()
