"""Messages of the channel: refused where they are not ours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.ipc.datagrams import (
    Envelope,
    FrameError,
    read_header,
    split_frames,
)
from otel_celery_launcher.ipc.marshalled import encode_resource
from otel_celery_launcher.ipc.span_decoder import read_span
from otel_celery_launcher.ipc.span_frames import (
    encode_span,
)
from otel_celery_launcher.signals import TRACES
from tests.support.spans import ended_span


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Malformed input is refused, whatever it is."""
    with pytest.raises(FrameError):
        read_header(memoryview(data), 0, len(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_message_is_refused(data: st.DataObject) -> None:
    span = ended_span(key="value")
    message = bytearray(
        Envelope(TRACES.number, encode_resource(span.resource)).message(
            [encode_span(span)]
        )
    )
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        read_header(memoryview(message), 0, len(message))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_a_body_of_another_version_is_refused(body: bytes) -> None:
    try:
        for frame in split_frames(body):
            read_span(Resource({}), frame)
    except FrameError:
        pass
    else:
        assert body == b""
