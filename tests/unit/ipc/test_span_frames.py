"""Frames of spans, with full fidelity."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    SpanLimits,
    TracerProvider,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode

from otel_celery_launcher.compat.span_starter import SpanStarter
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.ipc.datagrams import (
    HEADER,
    Envelope,
    read_header,
    split_frames,
)
from otel_celery_launcher.ipc.marshalled import encode_resource, read_resource
from otel_celery_launcher.ipc.span_decoder import ended_span as ended_span_here
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.ipc.span_frames import (
    SPAN_BYTES,
    Unobserved,
    encode_run_end,
    encode_run_start,
    encode_shared,
    encode_span,
)
from otel_celery_launcher.signals import TRACES
from tests.support.spans import RecordingProcessor, ended_span
from tests.support.strategies import contexts


def there_and_back(span: ReadableSpan) -> ReadableSpan:
    envelope = Envelope(TRACES.number, encode_resource(span.resource))
    message = envelope.message([encode_span(span)])
    header = read_header(memoryview(message), 0, len(message))
    (frame,) = split_frames(message[HEADER.size :])
    rebuilt = read_span(read_resource(envelope.resource), frame)
    assert (header.item_count, header.digest) == (1, envelope.digest)
    return rebuilt


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


values = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(texts, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
)


attributes = st.dictionaries(texts.filter(bool), values, max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    name=texts,
    kind=st.sampled_from(SpanKind),
    parent=st.none() | contexts,
    given_attributes=attributes,
    resource=attributes,
    scope=attributes,
    events=st.lists(st.tuples(texts, attributes), max_size=4),
    links=st.lists(st.tuples(contexts, attributes), max_size=4),
    status=st.sampled_from(StatusCode),
    description=texts,
)
def test_a_rebuilt_span_encodes_as_the_span_itself(
    name: str, kind: SpanKind, parent: SpanContext | None,
    given_attributes: dict[str, Any], resource: dict[str, Any], scope: dict[str, Any],
    events: list[tuple[str, dict[str, Any]]],
    links: list[tuple[SpanContext, dict[str, Any]]],
    status: StatusCode, description: str,
) -> None:  # fmt: skip
    """Golden: encode_spans(direct) == encode_spans(rebuilt), dropped counts and all."""
    ended = RecordingProcessor()
    provider = TracerProvider(
        resource=Resource(resource, "https://example.org/schema"),
        span_limits=SpanLimits(
            max_span_attributes=4, max_events=2, max_links=2, max_event_attributes=2,
            max_link_attributes=2,
        ),
        shutdown_on_exit=False,
    )  # fmt: skip
    provider.add_span_processor(ended)
    tracer = provider.get_tracer("scope", "1", "https://example.org/s", scope)
    context = parent and set_span_in_context(NonRecordingSpan(parent))
    span = tracer.start_span(
        name, context or None, kind, given_attributes, [Link(*link) for link in links]
    )
    for event_name, event_attributes in events:
        span.add_event(event_name, event_attributes, 17)
    span.set_status(Status(status, description if status is StatusCode.ERROR else None))
    span.end()
    for direct in ended.spans:  # none where the parent is not sampled
        rebuilt = there_and_back(direct)
        assert encode_spans([rebuilt]) == encode_spans([direct])
        assert rebuilt.context == direct.context
        assert rebuilt.parent == direct.parent


@settings(deadline=None)
@given(
    parent=contexts,
    common=attributes, own=attributes, state=texts,
)  # fmt: skip
def test_a_run_that_ends_as_it_began_encodes_as_the_span_itself(
    parent: SpanContext, common: dict[str, Any], own: dict[str, Any], state: str
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(RecordingProcessor())
    tracer = provider.get_tracer("scope", "1", "https://example.org/s", {"a": 1})
    both = {**common, **own}
    template = SpanStarter(tracer).template_below(parent)
    assert template is not None
    span = template.span(parent, "run", common, encode_shared(common), own)
    assert span is not None
    start = encode_run_start(span.origin)
    changes = {"celery.state": state}
    found = span.end_unobserved(changes)
    assert found is not None
    _, ended = found
    rebuilt = read_span(span.resource, encode_run_end(start, ended, changes))
    assert encode_spans([rebuilt]) == encode_spans([span])
    at_once = ended_span_here(Unobserved(span.origin, start, ended, changes))
    assert encode_spans([at_once]) == encode_spans([span])
    assert (at_once.context, at_once.parent) == (span.context, span.parent)
    assert (rebuilt.context, rebuilt.parent) == (span.context, span.parent)
    begun = read_span(span.resource, start)  # of a run whose process was killed
    assert begun.attributes == both
    assert (begun.start_time, begun.end_time) == (span.start_time, None)


class Colour(str, enum.Enum):
    RED = "red"


def test_values_that_marshal_does_not_know_become_plain() -> None:
    rebuilt = there_and_back(
        ended_span(colour=Colour.RED, many=(Colour.RED,), x=object())
    )
    assert rebuilt.attributes is not None
    assert rebuilt.attributes["colour"] == "red"
    assert list(rebuilt.attributes["many"]) == ["red"]
    assert str(rebuilt.attributes["x"]).startswith("<object object")


@pytest.mark.parametrize(
    "span",
    [
        ended_span("lone \ud800 surrogate"),
        ended_span(value="\udfff"),
        ended_span(value=2**70),
        ended_span(**{"key \ud800": 1}),
    ],
)
def test_a_cleaned_span_can_be_encoded(span: ReadableSpan) -> None:
    """One such span would make the encoder refuse its whole batch."""
    (resource_spans,) = encode_spans(sanitize([there_and_back(span)])).resource_spans
    (encoded,) = resource_spans.scope_spans[0].spans
    assert len(encoded.attributes) == len(span.attributes or {})


def test_a_span_too_large_for_a_datagram_is_cut_and_marked() -> None:
    span = ended_span(long="x" * 2 * SPAN_BYTES, small=1)
    data = encode_span(span)
    assert len(data) < SPAN_BYTES
    rebuilt = there_and_back(span)
    assert rebuilt.attributes is not None
    assert rebuilt.attributes["otel_celery.cut"] is True
    assert rebuilt.attributes["small"] == 1
    assert len(str(rebuilt.attributes["long"])) == 1024


SPAN = SpanContext(
    1, 2, False, trace_state=TraceState([(f"k{n}", "v" * 250) for n in range(32)])
)


def ended(name: str, **fields: Any) -> ReadableSpan:
    return ReadableSpan(name, SPAN, resource=Resource({}), **fields)


@pytest.mark.parametrize(
    "span",
    [
        ended_span(
            **{f"list {n}": [f"{n} {m} " * 800 for m in range(16)] for n in range(64)}
        ),
        ended_span(**{"key" * 100_000: 1}),
        ended_span(**{f"key {n} {'k' * 5000}": 1 for n in range(64)}),
        ended("name" * 100_000),
        ended("links", links=[Link(SPAN, {"a": "x" * 5000}) for _ in range(128)]),
        ended(
            "a scope",
            instrumentation_scope=InstrumentationScope(
                "s" * 200_000, "1", None, {"a": "x" * 200_000}
            ),
        ),
    ],
    ids=lambda span: span.name[:20],
)
def test_whatever_is_too_large_is_cut_to_what_fits(span: ReadableSpan) -> None:
    """Else it fits no datagram: it would wait in the backlog for ever."""
    assert len(encode_span(span)) <= SPAN_BYTES
    rebuilt = there_and_back(span)
    assert rebuilt.attributes is not None
    assert rebuilt.attributes["otel_celery.cut"] is True
    assert rebuilt.context is not None
    assert span.context is not None
    assert rebuilt.context.span_id == span.context.span_id
    assert span.name.startswith(rebuilt.name)
