"""Whatever comes over the wire has an answer, and whatever is taken can be shown."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_celery_launcher.receiver import http_server
from otel_celery_launcher.receiver.grpc_server import METHOD, GrpcServer
from otel_celery_launcher.receiver.http_server import HttpServer
from otel_celery_launcher.receiver.spans import read_request
from otel_celery_launcher.tail.command import Tail
from otel_celery_launcher.tail.display import Filter
from otel_celery_launcher.tail.page import Page
from otel_celery_launcher.tail.web.server import tasks_as_json, view
from otel_celery_launcher.tail.web.store import Store
from otel_celery_launcher.tail.web.views import VIEWS, Query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHODS = [b"POST", b"GET", b"PUT", b"", b"\xff"]
PATHS = [b"/v1/traces", b"/v1/traces?x", b"/", b"*", b"http://x/v1/traces", b"\x00"]
NAMES = [
    b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Content-Type",
    b"Expect", b"Connection", b"x-foo-bin", b"\xe9", b"",
]  # fmt: skip
VALUES = [
    b"0", b"5", b"-5", b"1e3", b"9" * 30, b"\xb2", b"chunked", b"gzip", b"100-continue", b"close",
    b"application/x-protobuf", b"application/x-protobuf; charset=\xff", b"",
]  # fmt: skip
headers = st.lists(
    st.tuples(
        st.sampled_from(NAMES) | st.binary(max_size=5),
        st.sampled_from(VALUES) | st.binary(max_size=20),
    ),
    max_size=6,
)
bodies = st.binary(max_size=60) | st.sampled_from(
    [b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n"]
)


@st.composite
def http_requests(draw: st.DrawFn) -> bytes:
    """Return what looks like a request, more or less."""
    line = b"%s %s HTTP/1.1\r\n" % (
        draw(st.sampled_from(METHODS)),
        draw(st.sampled_from(PATHS)),
    )
    lines = [b"%s: %s\r\n" % header for header in draw(headers)]
    return line + b"".join(lines) + b"\r\n" + draw(bodies)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.recursive(
    st.one_of(
        st.none(), texts, st.booleans(), st.integers(-(2**63), 2**63 - 1),
        st.floats(), st.binary(max_size=9),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=9,
)  # fmt: skip
NAMED = ["celery.task_name", "celery.lost", "celery.wait.broker", "celery.retry.reason"]
attributes = st.dictionaries(st.sampled_from(NAMED) | texts, values, max_size=4)


def ids(length: int) -> st.SearchStrategy[bytes]:
    few = st.sampled_from([b"", bytes(length), b"\x01" * length, b"\x02" * length])
    return few | st.binary(min_size=length, max_size=length)


def put_value(into: AnyValue, value: Any) -> None:
    if isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, int):
        into.int_value = value
    elif isinstance(value, float):
        into.double_value = value
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, bytes):
        into.bytes_value = value
    elif isinstance(value, list):
        into.array_value.SetInParent()
        for each in value:
            put_value(into.array_value.values.add(), each)
    elif isinstance(value, dict):
        into.kvlist_value.SetInParent()
        put_pairs(into.kvlist_value.values, value)


def put_pairs(into: Any, pairs: dict[str, Any]) -> None:
    for key, value in pairs.items():
        put_value(into.add(key=key).value, value)


@st.composite
def otlp_requests(draw: st.DrawFn) -> bytes:
    """Return a valid request of spans that no SDK would make."""
    made = ExportTraceServiceRequest()
    block = made.resource_spans.add()
    put_pairs(block.resource.attributes, {"service.name": draw(values)})
    times = st.integers(0, 2**64 - 1)
    for _ in range(draw(st.integers(1, 4))):
        span = block.scope_spans.add().spans.add(
            name=draw(texts),
            trace_id=draw(ids(16)),
            span_id=draw(ids(8)),
            parent_span_id=draw(ids(8)),
            start_time_unix_nano=draw(times),
            end_time_unix_nano=draw(times),
            kind=draw(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5)),
        )
        span.status.code = draw(st.integers(-1, 3))
        span.status.message = draw(texts)
        put_pairs(span.attributes, draw(attributes))
        put_pairs(span.events.add(name=draw(texts)).attributes, draw(attributes))
        span.links.add(span_id=draw(ids(8)))
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    server = HttpServer(lambda body, _: deque(read_request(body), maxlen=0))
    yield server.port
    server.stop()


@pytest.fixture(scope="module")
def call() -> Iterator[Any]:
    server = GrpcServer(lambda body, _: deque(read_request(body), maxlen=0))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel.unary_unary(METHOD)
    server.stop()


def answers(port: int, data: bytes) -> bytes:
    """Send bytes and nothing more; return all that is answered until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                found += piece
        return found


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200) | http_requests())
@example(b"POST /v1/traces HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n")  # isdigit()
def test_http_answers_whatever_comes(http_port: int, data: bytes) -> None:
    """No status of ours is 500; the standard library refuses methods and versions."""
    capture = io.StringIO()
    with contextlib.redirect_stderr(capture):
        found = answers(http_port, data)
    statuses = [
        int(line.split()[1]) for line in found.splitlines() if line[:7] == b"HTTP/1."
    ]
    assert all(status in (501, 505) or status < 500 for status in statuses)
    assert capture.getvalue() == ""


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | otlp_requests())
def test_grpc_takes_or_refuses_whatever_comes(call: Any, data: bytes) -> None:
    answer = call.future(data, timeout=5)
    assert answer.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("is_json", [True, False])
def test_what_is_taken_is_shown(tmp_path: Path, is_json: bool) -> None:
    """As text or JSON, and on the page; nothing in it commands a terminal."""
    file = tmp_path / "page.html"

    @settings(max_examples=150, deadline=None)
    @given(otlp_requests())
    def show(body: bytes) -> None:
        store = Store()
        page = Page(file, store)
        tail = Tail(Filter(), is_json=is_json, page=page, forwarder=None, store=store)
        tail.take_http(body, {})
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            tail.look(is_end=True)
        traces = [f"/trace/{each.trace.trace_id}" for each in store.entries()]
        shown = [str(view(store, path, Query())) for path in (*VIEWS, *traces)]
        json.loads(tasks_as_json(store))
        for text in (out.getvalue(), file.read_text(), *shown):
            assert {char for char in text if not char.isprintable()} <= {"\n", "\t"}

    show()


def test_a_slow_client_is_answered_and_keeps_nobody_waiting(
    http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not buy more time."""
    monkeypatch.setattr(http_server, "BODY_SECONDS", 0.3)
    head = (
        b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", http_port), timeout=0.1) as slow:
        slow.sendall(head % 1000)
        assert b" 200 " in answers(http_port, head % 0)
        end, found = time.monotonic() + 5, b""
        while not found and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                slow.sendall(b"x")
                found = slow.recv(1000)
        assert b" 408 " in found


def test_connections_beyond_the_limit_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each costs a thread; those that are served go on."""
    monkeypatch.setattr(http_server, "CONNECTIONS", 2)
    server = HttpServer(lambda *_: None)
    address = ("127.0.0.1", server.port)
    with contextlib.ExitStack() as opened:
        first = [
            opened.enter_context(socket.create_connection(address, timeout=5))
            for _ in range(3)
        ]
        assert first[2].recv(1) == b""
        first[0].sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert b" 404 " in first[0].recv(1000)
    server.stop()
