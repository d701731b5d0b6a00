"""``otel-celery tail`` survives what anybody sends it, and whoever reads its output."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import grpc
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from tests.process.test_tail import Tail
from tests.support.documented import undocumented
from tests.support.harness import SCRIPT, Producer, wait_until
from tests.support.servers import free_port, is_open
from tests.support.wire import wire

if TYPE_CHECKING:
    from tests.support.harness import Launcher

BASH = Path("/bin/bash")

# A title, a cleared screen, a bell, a line, C1 controls, another direction of writing.
CONTROLS = "\x1b]0;owned\x07\x1b[2J\r\nfake\x9b31m\x7f\u202egnp\u2028\u2066"


def request(
    number: int = 1, name: str = "span", kind: int = 1, **texts: str | float
) -> bytes:
    """Return one span of a trace of its own."""
    made = ExportTraceServiceRequest()
    block = made.resource_spans.add()
    service = block.resource.attributes.add(key="service.name")
    service.value.string_value = str(texts.pop("service", "web"))
    span = block.scope_spans.add().spans.add(
        name=name,
        kind=kind,
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        start_time_unix_nano=1,
        end_time_unix_nano=2,
    )
    span.status.code = 2
    span.status.message = str(texts.pop("error", ""))
    for key, value in texts.items():
        pair = span.attributes.add(key=key)
        if isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = value
    return bytes(made.SerializeToString())


def controls_in(text: str) -> set[str]:
    return {char for char in text if not char.isprintable()} - {"\n"}


def test_a_task_that_a_producer_named_cannot_command_the_terminal(
    launcher: Launcher, broker: str
) -> None:
    """The worker does not know the task: nothing but a message is needed."""
    tail = Tail(launcher)
    worker = launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=tail.endpoint)
    Producer(broker).send(CONTROLS)
    tail.process.wait_for_output("trace ")
    worker.stop()
    output = "\n".join(tail.end())
    assert controls_in(output) == set()
    assert r"\x1b]0;owned\x07\x1b[2J" in output


def test_no_text_that_was_received_commands_the_terminal(launcher: Launcher) -> None:
    tail = Tail(launcher, "--errors")
    tail.send(request(1, CONTROLS, service=CONTROLS[::-1], error=CONTROLS))
    output = "\n".join(tail.end())
    assert "1 error" in output
    assert controls_in(output) == set()


def test_json_is_ascii_and_json(launcher: Launcher) -> None:
    """Numbers that JSON does not have are texts, as OTLP writes them."""

    def refuse(constant: str) -> NoReturn:
        pytest.fail(f"{constant} is no JSON")

    tail = Tail(launcher, "--json")
    tail.send(request(1, CONTROLS, error=CONTROLS, big=float("inf"), no=float("nan")))
    (line,) = (line for line in tail.end() if line.startswith("{"))
    assert line.isascii()
    assert controls_in(line) == set()
    (span,) = json.loads(line, parse_constant=refuse)["spans"]
    assert span["name"] == span["status"] == CONTROLS
    assert span["attributes"] == {"big": "Infinity", "no": "NaN"}


def test_the_page_shows_controls(launcher: Launcher, tmp_path: Path) -> None:
    """Lines of a statement stay lines; each text and the page are bounded."""
    file = tmp_path / "traces.html"
    tail = Tail(launcher, "--html", str(file))
    tail.send(request(1, CONTROLS, error=CONTROLS, sql="a\nb" + "x" * 1_000_000))
    tail.end()
    page = file.read_text()
    assert controls_in(page) == set()
    assert r"\x1b]0;owned\x07\x1b[2J" in page
    assert "a\nbxxx" in page
    assert len(page) < 100_000


@pytest.mark.parametrize("kind", [9, -1, 2**31 - 1])
def test_a_kind_that_is_not_known_is_taken(launcher: Launcher, kind: int) -> None:
    """OTLP's enumerations are open; a later one may have more."""
    tail = Tail(launcher, "--json")
    assert tail.post(request(1, kind=kind)) == 200
    tail.send(request(2, kind=kind))
    traces = [json.loads(line) for line in tail.end() if line.startswith("{")]
    assert [trace["spans"][0]["kind"] for trace in traces] == ["UNSPECIFIED"] * 2


def test_an_id_that_is_none_is_refused(launcher: Launcher) -> None:
    """As the Collector does: an id of 8 MB would be a line of 16 MB."""
    tail, made = Tail(launcher), ExportTraceServiceRequest.FromString(request())
    made.resource_spans[0].scope_spans[0].spans[0].trace_id = b"long" * 5
    assert tail.post(made.SerializeToString()) == 400
    assert tail.end()[-1].endswith(", 1 request refused")


def test_no_request_ends_forwarding(launcher: Launcher) -> None:
    """Headers that gRPC refuses are left out; a request too large stands in no way."""
    with wire() as (endpoint, requests):
        tail = Tail(launcher, "--forward", endpoint)
        odd = {
            "x-foo-bin": "abc", "x-bar-bin": "no base64!", "x-é": "a", "x y": "a",
            "x-latin": "é", "x-tab": "a\tb", "x-large": "a" * 30_000, "grpc-x": "1",
            "x-tenant": "acme",
        }  # fmt: skip
        for number, (name, value) in enumerate(odd.items(), 1):
            headers = f"{name}: {value}\r\n".encode("latin-1")
            assert post(tail.http_port, request(number), headers) == 200
        tail.send(request(20), ("x-trace-bin", b"\xff"))
        too_large = request(30, text="x" * 5_000_000)  # gRPC servers take 4 MiB
        assert tail.post(too_large) == 200
        tail.send(request(40))
        wait_until(lambda: request(40) in requests, 20, "the last one is forwarded")
        line = tail.end()[-1]
        assert line.endswith(f"; {len(odd) + 2} requests forwarded, 1 not")


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_the_output_cannot_encode_is_replaced(
    launcher: Launcher, environ: dict[str, str], options: tuple[str, ...]
) -> None:
    ports = ("--port", "0", "--http-port", str(port := free_port()))
    tail = launcher.start("tail", *ports, *options, **environ)
    tail.wait_for_output("tail listens")
    body = request(1, "закупка 购买 " * 9, service="лавка")
    assert post(port, body) == 200
    tail.stop()
    assert tail.popen.returncode == 0, tail.output
    assert tail.output.isascii()
    assert ("????? ??" if not options else r"\u043b\u0430") in tail.output


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_leaves_ends_it_quietly(launcher: Launcher, reader: str) -> None:
    """As with other tools, SIGPIPE is the status: 141 in a shell."""
    port = free_port()
    script = (
        f"{SCRIPT} tail --port 0 --http-port {port} --forward http://127.0.0.1:9"
        f" | {reader}; echo status ${{PIPESTATUS[0]}}"
    )
    shell = launcher.start("-c", script, program=BASH)
    if reader == "head -1":
        wait_until(lambda: is_open(port), 20, "tail listens")
        assert post(port, request()) == 200
    assert shell.wait() == 0
    assert shell.output.count("\n") <= 4, shell.output
    assert shell.output.endswith("status 141\n")


def test_the_demo_ends_quietly_with_its_reader(launcher: Launcher) -> None:
    script = f"{SCRIPT} demo | true; echo status ${{PIPESTATUS[0]}}"
    shell = launcher.start("-c", script, program=BASH)
    assert shell.wait() == 0
    assert shell.output == "status 141\n"


def test_an_output_that_is_full_is_said(launcher: Launcher) -> None:
    script = f"{SCRIPT} demo > /dev/full"
    shell = launcher.start("-c", script, program=BASH)
    assert shell.wait() == 1
    (line,) = shell.output.splitlines()
    assert "'<stdout>': expected something that can be written (No space" in line


def test_an_output_that_is_closed_is_no_bug(launcher: Launcher) -> None:
    script = f"{SCRIPT} tail --port 0 --http-port {(port := free_port())} >&-"
    shell = launcher.start("-c", f"exec {script}", program=BASH)
    shell.wait_for_output("tail listens")
    assert post(port, request()) == 200
    shell.stop()
    assert shell.popen.returncode == 0, shell.output
    assert len(shell.output.splitlines()) == 2


def test_large_spans_are_bounded_by_bytes(launcher: Launcher) -> None:
    """Their number alone would allow 100,000 of them."""
    tail = Tail(launcher)
    for number in range(1, 61):
        body = request(number, text=chr(97 + number % 26) * 8_000_000)
        assert tail.post(body) == 200
    memory = psutil.Process(tail.process.popen.pid).memory_info().rss
    assert memory < 400e6  # of 480 MB that have come
    last = tail.end()[-1]
    assert " cut for want of room" in last


def test_spans_that_nobody_reads_are_dropped_and_counted(launcher: Launcher) -> None:
    """A pager stands still; tail says so when it goes on."""
    command = [str(SCRIPT), "tail", "--json", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--http-port", str(port := free_port())],
        env=launcher.environ, stdout=pipe, stderr=pipe, text=True,
    ) as tail:  # fmt: skip
        wait_until(lambda: is_open(port), 20, "tail listens")
        for number in range(1, 41):
            assert post(port, request(number, text="x" * 6_000_000)) == 200
        assert psutil.Process(tail.pid).memory_info().rss < 400e6
        tail.send_signal(signal.SIGINT)
        lines, said = tail.communicate(timeout=60)
    assert tail.returncode == 0
    assert undocumented(said) == []
    assert "otel-celery: tail drops spans: " in said
    dropped = re.search(r" (\d+) spans dropped$", said.strip())
    assert dropped
    assert len(lines.splitlines()) + int(dropped[1]) == 40


def test_a_request_that_is_too_large_is_refused(launcher: Launcher) -> None:
    tail, body = Tail(launcher), request(1, text="x" * (9 << 20))
    assert tail.post(body) == 413
    with pytest.raises(grpc.RpcError) as refused:
        tail.send(body)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    many = ExportTraceServiceRequest.FromString(request())
    for _ in range(60_000):  # of two bytes each
        many.resource_spans[0].scope_spans[0].spans.add()
    assert tail.post(many.SerializeToString()) == 400
    assert tail.post(request()) == 200


def test_what_waits_for_a_collector_is_bounded_and_counted(launcher: Launcher) -> None:
    tail = Tail(launcher, "--forward", f"http://127.0.0.1:{free_port()}")
    for number in range(1, 11):
        assert tail.post(request(number, text="x" * 8_000_000)) == 200
    assert tail.end()[-1].endswith("; 0 requests forwarded, 10 not (2 had no room)")


LENGTHS = {
    "none": (b"", b"", 411),
    "negative": (b"Content-Length: -5\r\n", b"", 400),
    "no number": (b"Content-Length: abc\r\n", b"", 400),
    "no digit of ours": ("Content-Length: ²\r\n".encode("latin-1"), b"", 400),
    "a sign": (b"Content-Length: +1\r\n", b"", 400),
    "two": (b"Content-Length: 1\r\nContent-Length: 2\r\n", b"", 400),
    "empty": (b"Content-Length:\r\n", b"", 400),
    "too many": (b"Content-Length: 99999999999\r\n", b"", 413),
    "thousands of digits": (b"Content-Length: " + b"9" * 5000 + b"\r\n", b"", 413),
    "more than comes": (b"Content-Length: 1000\r\n", request(), 400),
    "no chunks": (b"Transfer-Encoding: chunked\r\n", b"xyz\r\n", 400),
    "a chunk too large": (b"Transfer-Encoding: chunked\r\n", b"fffffff\r\n", 413),
    "chunks that end": (b"Transfer-Encoding: chunked\r\n", b"5\r\nab", 400),
    "chunks and a length": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n", 400,
    ),
    "another encoding": (b"Transfer-Encoding: gzip\r\n", b"", 501),
    "chunks": (
        b"Transfer-Encoding: chunked\r\n",
        b"%x;a=b\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(request()), request()), 200,
    ),
    "half a gzip": (
        b"Content-Encoding: gzip\r\nContent-Length: 60\r\n",
        gzip.compress(request())[:60], 400,
    ),
    "no encoding of ours": (
        b"Content-Encoding: br\r\nContent-Length: 1\r\n", b"x", 415,
    ),
}  # fmt: skip


def test_each_length_has_its_answer(launcher: Launcher) -> None:
    """... while a client that never sends its body keeps nobody waiting."""
    tail = Tail(launcher)
    with socket.create_connection(("127.0.0.1", tail.http_port)) as silent:
        silent.sendall(post_head(b"Content-Length: 1000\r\n") + b"x")
        answers = {
            name: raw(tail.http_port, headers, body)
            for name, (headers, body, _) in LENGTHS.items()
        }
        assert answers == {name: status for name, (_, _, status) in LENGTHS.items()}
        assert tail.post(request(2)) == 200
    lines = tail.end()
    assert not any("Traceback" in line or "Exception" in line for line in lines)
    assert lines[-1].startswith("2 traces, 2 spans")


def post_head(headers: bytes) -> bytes:
    kind = b"Content-Type: application/x-protobuf\r\n"
    return b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n" + kind + headers + b"\r\n"


def raw(port: int, headers: bytes, body: bytes) -> int:
    """Send a request as it is, and nothing after it; return the status, 0 for none."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(post_head(headers) + body)
        client.shutdown(socket.SHUT_WR)
        line = client.makefile("rb").readline()
        return int(line.split()[1]) if line else 0


def post(port: int, body: bytes, headers: bytes = b"") -> int:
    return raw(port, b"Content-Length: %d\r\n%s" % (len(body), headers), body)
