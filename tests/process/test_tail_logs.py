"""``otel-celery tail`` shows log records below their spans, whoever sent them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)

from otel_celery_launcher.receiver.grpc_server import LOGS_METHOD
from tests.process.test_tail import Tail
from tests.process.test_tail_input import CONTROLS, controls_in, request
from tests.support.harness import Producer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.harness import Launcher


def a_request(body: str, number: int = 1, severity: int = 17) -> bytes:
    made = ExportLogsServiceRequest()
    scope_logs = made.resource_logs.add().scope_logs.add()
    scope_logs.scope.name = body
    record = scope_logs.log_records.add(
        time_unix_nano=1,
        severity_number=severity,
        severity_text=body,
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
    )
    record.body.string_value = body
    stack = record.attributes.add(key="exception.stacktrace")
    stack.value.string_value = body
    return bytes(made.SerializeToString())


def send(tail: Tail, data: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{tail.port}") as channel:
        channel.unary_unary(LOGS_METHOD)(data, timeout=10)


def test_the_lines_of_a_task_are_below_its_run(
    launcher: Launcher, broker: str, tmp_path: Path
) -> None:
    page = tmp_path / "traces.html"
    tail = Tail(launcher, "--json", "--html", str(page))
    worker = launcher.worker(
        "-c1",
        app="talks",
        OTEL_EXPORTER_OTLP_ENDPOINT=tail.endpoint,
        OTEL_LOGS_EXPORTER="otlp",
    )
    producer = Producer(broker)
    producer.send("talks.talk", 1).get(timeout=60)
    producer.send("talks.dies", 2)
    worker.wait_for_output("signal 9 (SIGKILL)")
    worker.stop()
    *_, totals = lines = tail.end()
    traces = [json.loads(line) for line in lines if line.startswith("{")]
    talked, died = (
        [
            (line["severity"], line["body"])
            for trace in traces
            for span in trace["spans"]
            if span["name"] == f"run/talks.{name}"
            for line in span["logs"]
        ]
        for name in ("talk", "dies")
    )
    assert [body for _, body in talked[:4]] == [
        "task 1",
        "module 1",
        "late 1",
        "printed 1",
    ]
    assert re.match(r"Task talks\.talk\[.*\] succeeded in ", talked[4][1])
    assert talked[2][0] == "WARN"
    assert ("WARN", "last words 2") in died
    assert re.search(r"\d+ log records \(\d+ in no trace that has come\)", totals)
    text = page.read_text()
    assert "last words 2" in text
    assert text.index("run/talks.talk") < text.index("printed 1")


def test_no_record_commands_the_terminal_or_the_page(
    launcher: Launcher, tmp_path: Path
) -> None:
    page = tmp_path / "traces.html"
    tail = Tail(launcher, "--stacks", "--html", str(page))
    tail.send(request(1))
    send(tail, a_request(CONTROLS))
    send(tail, a_request("<script>alert(1)</script>", severity=1000))
    output = "\n".join(tail.end())
    assert controls_in(output) == set()
    assert r"\x1b]0;owned\x07" in output
    assert "2 log records" in output
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;alert" in page.read_text()


@pytest.mark.parametrize("data", [b"\x0a\x03no!", b"\x0a\x02\x12\x00" * 60_000])
def test_what_is_no_request_is_refused(launcher: Launcher, data: bytes) -> None:
    tail = Tail(launcher)
    with pytest.raises(grpc.RpcError) as refused:
        send(tail, data)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    url = f"http://127.0.0.1:{tail.http_port}/v1/logs"
    headers = {"Content-Type": "application/x-protobuf"}
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10)
    with answer.value:
        assert answer.value.code == 400
    assert tail.end()[-1].endswith("2 requests refused")


def test_they_are_forwarded(launcher: Launcher) -> None:
    behind = Tail(launcher, "--json")
    tail = Tail(launcher, "--forward", behind.endpoint)
    tail.send(request(1))
    send(tail, a_request("a line"))
    assert "2 requests forwarded, 0 not" in tail.end()[-1]
    (line,) = (line for line in behind.end() if line.startswith("{"))
    (span,) = json.loads(line)["spans"]
    assert [each["body"] for each in span["logs"]] == ["a line"]
