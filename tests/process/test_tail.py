"""``otel-celery tail``: whole traces as text, JSON and a page; nothing lost, all bounded."""

from __future__ import annotations

import gzip
import json
import re
import signal
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from otel_celery_launcher.receiver.grpc_server import METHOD
from tests.support.harness import Producer, run_some, wait_until
from tests.support.servers import free_port
from tests.support.wire import wire

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from playwright.sync_api import Browser

    from tests.support.harness import Launcher, Process

MS = 1_000_000  # nanoseconds


class Tail:
    """A started ``otel-celery tail``."""

    def __init__(self, launcher: Launcher, *options: str) -> None:
        ports = ("--port", "0", "--http-port", "0")
        self.process: Process = launcher.start("tail", *ports, *options)
        self.process.wait_for_output("  export OTEL")
        found = re.search(r"port (\d+) for gRPC, (\d+) for HTTP", self.process.output)
        assert found
        self.port, self.http_port = map(int, found.groups())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def send(self, request: bytes, *metadata: tuple[str, str]) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            channel.unary_unary(METHOD)(request, timeout=10, metadata=metadata)

    def post(self, body: bytes, **headers: str) -> int:
        url = f"http://127.0.0.1:{self.http_port}/v1/traces"
        headers = {"Content-Type": "application/x-protobuf", **headers}
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def end(self, number: int = signal.SIGINT) -> list[str]:
        """Stop it; return its lines but the two that say where it listens."""
        self.process.stop(number)
        assert self.process.popen.returncode == 0, self.process.output
        return self.process.output.splitlines()[2:]


class Story:
    """Makes spans of a web service and a worker, with the times that are wanted."""

    def __init__(self) -> None:
        self._made = InMemorySpanExporter()
        self._tracers = {}
        for service in ("web", "worker"):
            provider = TracerProvider(resource=Resource({"service.name": service}))
            provider.add_span_processor(SimpleSpanProcessor(self._made))
            self._tracers[service] = provider.get_tracer("story")

    def span(
        self,
        name: str,
        parent: trace.SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        service: str = "worker",
        at: tuple[int, int] = (0, 100),
        error: str = "",
        **attributes: Any,
    ) -> trace.SpanContext:
        """Make a span; ``at`` is its start and end in milliseconds."""
        context = Context()
        if parent is not None:
            above = trace.NonRecordingSpan(parent)
            context = trace.set_span_in_context(above, context)
        attributes = {key.replace("__", "."): each for key, each in attributes.items()}
        span = self._tracers[service].start_span(
            name, context, kind, attributes, start_time=10**18 + at[0] * MS
        )
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(10**18 + at[1] * MS)
        return span.get_span_context()

    def linked(self, name: str, to: trace.SpanContext) -> trace.SpanContext:
        """Make a run that begins a trace of its own."""
        span = self._tracers["worker"].start_span(
            name, Context(), SpanKind.CONSUMER, links=[trace.Link(to)]
        )
        span.end()
        return span.get_span_context()

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._made.get_finished_spans()

    def request(self) -> bytes:
        """Return all spans as one OTLP request."""
        return bytes(encode_spans(self.spans()).SerializeToString())


def checkout(story: Story) -> None:
    """A request, its task that fails, and a statement below it."""
    web = story.span("POST /checkout", None, SpanKind.SERVER, "web", (0, 100))
    sent = story.span("apply_async/pay", web, SpanKind.PRODUCER, "web", (10, 20))
    run = story.span(
        "run/pay", sent, SpanKind.CONSUMER, at=(120, 400), error="declined",
        celery__task_name="shop.pay", text="<script>document.title = 'bad'</script>",
    )  # fmt: skip
    story.span("INSERT orders", run, SpanKind.CLIENT, at=(200, 300))


def orphan(story: Story, task: str = "shop.mail") -> None:
    unknown = trace.SpanContext(77, 88, is_remote=True, trace_flags=trace.TraceFlags(1))
    story.span(
        f"run/{task}", unknown, SpanKind.CONSUMER, at=(0, 50),
        celery__task_name=task, celery__wait__broker=2.5,
    )  # fmt: skip


def lost(story: Story) -> None:
    story.span(
        "run/shop.report", None, SpanKind.CONSUMER, at=(0, 3000), error="SIGKILL",
        celery__lost=True, celery__task_name="shop.report",
    )  # fmt: skip


def a_fleet() -> bytes:
    story = Story()
    for tell in (checkout, orphan, lost):
        tell(story)
    return story.request()


def test_a_worker_is_shown_as_it_works(launcher: Launcher, broker: str) -> None:
    """The publish of the tests' producer is never exported: its runs are orphans."""
    tail = Tail(launcher)
    worker = launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=tail.endpoint)
    run_some(Producer(broker), 3)
    worker.stop()
    lines = tail.end()
    assert sum(line.startswith("trace ") for line in lines) == 3
    assert sum("run/shop.noop" in line and "ORPHAN" in line for line in lines) == 3
    assert lines[-1] == (
        "3 traces, 3 spans, 3 runs, 0 errors, 0 lost tasks, 3 orphans (100.0% of the spans)"
    )


def test_a_whole_trace_is_shown_when_it_is_quiet(launcher: Launcher) -> None:
    tail, story = Tail(launcher), Story()
    checkout(story)
    tail.send(story.request())
    tail.process.wait_for_output("INSERT", seconds=4)  # an incomplete one waits for 10
    head, _, *rows = tail.process.output.splitlines()[2:]
    assert head.endswith(": 2 services, 4 spans, 0.400 s, 1 error")
    assert [row.split() for row in rows if row] == [
        ["web", "POST", "/checkout", "SERVER", "0.000", "0.100"],
        ["web", "apply_async/pay", "PRODUCER", "0.010", "0.010"],
        ["worker", "run/pay", "CONSUMER", "0.120", "0.280", "0.100", "ERROR"],
        ["declined"],
        ["worker", "INSERT", "orders", "CLIENT", "0.200", "0.100"],
    ]


def test_what_comes_later_is_shown_with_what_was_there(launcher: Launcher) -> None:
    tail, story = Tail(launcher), Story()
    checkout(story)
    *before, last = story.spans()
    tail.send(bytes(encode_spans(before).SerializeToString()))
    tail.process.wait_for_output("run/pay")
    tail.send(bytes(encode_spans([last]).SerializeToString()))
    lines = tail.end()
    assert sum("run/pay" in line for line in lines) == 2
    assert sum("again, 2 services, 4 spans" in line for line in lines) == 1
    assert lines[-1].startswith("1 trace, 4 spans, 1 run, 1 error, 0 lost tasks")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), {"POST /checkout", "run/shop.mail", "run/shop.report"}),
        (("--task", "shop.m*"), {"run/shop.mail"}),
        (("--errors",), {"POST /checkout", "run/shop.report"}),
        (("--slow", "1"), {"run/shop.report"}),
        (("--orphans",), {"run/shop.mail", "run/shop.report"}),
        (("--orphans", "--errors"), {"run/shop.report"}),
    ],
)
def test_only_what_is_asked_for_is_shown(
    launcher: Launcher, options: tuple[str, ...], shown: set[str]
) -> None:
    """All is counted; JSON is one line a trace on standard output."""
    tail = Tail(launcher, "--json", *options)
    tail.send(a_fleet())
    lines = tail.end(signal.SIGTERM)
    traces = [json.loads(line) for line in lines if line.startswith("{")]
    assert {trace["spans"][0]["name"] for trace in traces} == shown
    assert (
        "3 traces, 6 spans, 3 runs, 2 errors, 1 lost task, 2 orphans (33.3% of the spans)"
    ) in lines


def test_notes_and_waits_are_in_the_json(launcher: Launcher) -> None:
    tail = Tail(launcher, "--json")
    tail.send(a_fleet())
    found = {
        span["name"]: (span["depth"], span["waited"], span["note"])
        for line in tail.end()
        if line.startswith("{")
        for span in json.loads(line)["spans"]
    }
    assert found["run/pay"] == (2, pytest.approx(0.1), "ERROR")
    assert found["run/shop.mail"] == (0, 2.5, "ORPHAN")
    assert found["run/shop.report"] == (0, None, "LOST")


def test_each_task_has_a_line_at_the_end(launcher: Launcher) -> None:
    """Each run counts once, however often its trace is shown."""
    tail, fleet = Tail(launcher), a_fleet()
    tail.send(fleet)
    tail.process.wait_for_output("run/pay")
    tail.send(fleet)
    lines = tail.end()
    assert sum("again, " in line for line in lines) > 0
    start = next(n for n, line in enumerate(lines) if line.startswith("task "))
    table = {line.split()[0]: line.split()[1:] for line in lines[start : start + 4]}
    assert table["task"][:4] == ["runs", "failed", "retry", "lost"]
    assert table["shop.pay"] == [
        "1",
        "1",
        "0",
        "0",
        "0",
        "280",
        "ms",
        "280",
        "ms",
        "100",
        "ms",
    ]
    assert table["shop.report"][:5] == ["1", "0", "0", "1", "0"]
    assert table["shop.mail"][-2:] == ["2.50", "s"]


def test_a_publish_whose_run_has_not_ended_is_marked(launcher: Launcher) -> None:
    """Unless a run in another trace is linked to it: that one is whole."""
    tail, story = Tail(launcher), Story()
    for service in ("waits", "linked"):
        story.span(f"apply_async/{service}", None, SpanKind.PRODUCER, "web", (0, 1))
    _, linked = story.spans()
    run = story.linked("run/linked", linked.context)
    assert run.trace_id != linked.context.trace_id
    tail.send(story.request())
    tail.process.wait_for_output("apply_async/linked", seconds=5)
    assert "apply_async/waits" not in tail.process.output
    lines = tail.end()
    marked = [line.split()[1] for line in lines if line.endswith("open")]
    assert marked == ["apply_async/waits"]
    assert sum(line.endswith("1 task not ended yet") for line in lines) == 2


def test_a_failure_says_why_and_where(launcher: Launcher, broker: str) -> None:
    """In the text, with its stack on request, in the JSON and on the page."""
    page = launcher.folder / "page.html"
    tails = [Tail(launcher, "--stacks", "--html", str(page)), Tail(launcher, "--json")]
    for tail in tails:
        worker = launcher.worker(OTEL_EXPORTER_OTLP_ENDPOINT=tail.endpoint)
        Producer(broker).send("shop.fail")
        worker.wait_for_output("raised unexpected")
        worker.stop()
    text, found = (tail.end() for tail in tails)
    assert any(
        re.search(r"^ +RuntimeError: on purpose  shop.py:\d+$", line) for line in text
    )
    assert any(
        re.search(r"^ +Traceback \(most recent call last\)", line) for line in text
    )
    assert "Traceback (most recent call last)" in page.read_text()
    (shown,) = [json.loads(line) for line in found if line.startswith("{")]
    (error,) = [span["error"] for span in shown["spans"] if span["error"]]
    assert (error["type"], error["message"]) == ("RuntimeError", "on purpose")
    assert error["stack"].startswith("Traceback")


def test_http_is_taken_and_what_is_none_is_refused(launcher: Launcher) -> None:
    tail, request = Tail(launcher), a_fleet()
    compressed = {"Content-Encoding": "gzip"}
    assert tail.post(gzip.compress(request), **compressed) == 200
    assert tail.post(b"\xff garbage") == 400
    assert tail.post(b"not compressed", **compressed) == 400
    assert tail.post(gzip.compress(bytes(70 << 20)), **compressed) == 400  # a bomb
    assert tail.post(request, **{"Content-Type": "application/json"}) == 415
    with pytest.raises(grpc.RpcError) as refused:
        tail.send(b"\xff garbage")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert tail.end()[-1].endswith(", 2 requests refused")


def test_requests_are_forwarded_byte_for_byte(launcher: Launcher) -> None:
    with wire() as (endpoint, requests):
        tail = Tail(launcher, "--forward", endpoint)
        sent = [a_fleet(), a_fleet()]
        tail.send(sent[0], ("x-tenant", "acme"))
        assert tail.post(gzip.compress(sent[1]), **{"Content-Encoding": "gzip"}) == 200
        wait_until(lambda: len(requests) == 2, 10, "both are forwarded")
        assert sorted(requests) == sorted(sent)
        assert tail.end()[-1].endswith("; 2 requests forwarded, 0 not")


def test_a_collector_that_is_away_is_waited_for(launcher: Launcher) -> None:
    tail = Tail(launcher, "--forward", f"http://127.0.0.1:{free_port()}")
    tail.send(a_fleet())
    lines = tail.end()
    assert lines[-1].endswith("; 0 requests forwarded, 1 not")


def test_a_port_that_is_taken_is_said(launcher: Launcher) -> None:
    tail = Tail(launcher)
    done = launcher.run("tail", "--port", str(tail.port), "--http-port", "0")
    assert done.returncode == 78
    assert "expected free ones" in done.stderr
    assert "choose others" in done.stderr


def test_a_page_that_cannot_be_written_is_said(launcher: Launcher) -> None:
    ports = ("--port", "0", "--http-port", "0")
    done = launcher.run("tail", *ports, "--html", "/no/such/folder/traces.html")
    assert done.returncode == 78
    assert "/no/such/folder/traces.html" in done.stderr


@pytest.mark.timed
def test_nothing_is_lost_at_5000_spans_a_second(launcher: Launcher) -> None:
    """60,000 spans of traces that never become whole, in requests of 500."""
    tail = Tail(launcher, "--errors")
    send_60000_spans(tail)
    memory = psutil.Process(tail.process.popen.pid).memory_info().rss
    assert memory < 400e6
    assert tail.end()[-1].startswith("6000 traces, 60000 spans")


def send_60000_spans(tail: Tail) -> None:
    """Send them as fast as they are taken: at least 5,000 a second."""
    with grpc.insecure_channel(f"127.0.0.1:{tail.port}") as channel:
        call = channel.unary_unary(METHOD)
        requests = [never_whole() for _ in range(120)]
        start = time.monotonic()
        waiting = [call.future(request, timeout=30) for request in requests]
        for each in waiting:
            each.result()
        assert time.monotonic() - start < 60_000 / 5_000


def never_whole() -> bytes:
    """Return 500 spans: 50 traces with publishes whose runs never come."""
    story = Story()
    for _ in range(50):
        web = story.span("GET /", None, SpanKind.SERVER, "web")
        for number in range(9):
            story.span("apply_async/x", web, SpanKind.PRODUCER, "web", n=number)
    return story.request()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("has_scripts", [True, False])
def test_the_page_works_by_keyboard_without_network_or_script(
    launcher: Launcher, browser: Browser, tmp_path: Path, scheme: Any, has_scripts: bool
) -> None:
    file = tmp_path / "traces.html"
    tail = Tail(launcher, "--html", str(file))
    tail.send(a_fleet())
    tail.end()
    context = browser.new_context(
        color_scheme=scheme, java_script_enabled=has_scripts, offline=True
    )
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]
    assert page.title().startswith("Traces, "), "what came over the wire is not run"
    dark = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert dark == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]

    traces = page.locator("details.trace")
    assert traces.count() == 3
    page.locator("#errors").focus()
    page.keyboard.press("Space")  # only with errors
    assert [each.is_visible() for each in traces.all()].count(True) == 2
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # ... and with orphans
    assert [each.is_visible() for each in traces.all()].count(True) == 1
    page.keyboard.press("Space")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    for _ in range(4):  # past the check boxes, to the third trace
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    rows = page.locator("details.trace[open] tbody > tr")
    assert [row.locator("summary").inner_text().split()[0] for row in rows.all()] == [
        "POST", "apply_async/pay", "run/pay", "INSERT",
    ]  # fmt: skip
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    told = rows.nth(2).locator("dl")
    assert told.is_visible()
    assert "<script>document.title = 'bad'</script>" in told.inner_text()
    context.close()
