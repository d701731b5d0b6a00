"""``tail --web`` and ``top``: live, by keyboard, without a script, bounded, and closed to others."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from otel_celery_launcher.receiver.grpc_server import METHOD, METRICS_METHOD
from otel_celery_launcher.tail.command import tail
from otel_celery_launcher.tail.web.server import WEB_PORT
from tests.process.test_tail import (
    MS,
    Story,
    Tail,
    a_fleet,
    checkout,
    orphan,
    send_60000_spans,
)
from tests.support.harness import Producer, run_some, wait_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.support.harness import Launcher

HOSTILE = "<script>document.title='bad'</script>\x1b[2J\"'><img src=x onerror=alert(1)>"


class Web(Tail):
    """A started ``tail --web``."""

    def __init__(self, launcher: Launcher, *options: str) -> None:
        super().__init__(launcher, "--web", "0", *options)
        found = re.search(r"the live page is http://(\S+):(\d+)/", self.process.output)
        assert found
        self.host, self.web_port = found[1], int(found[2])
        self.url = f"http://127.0.0.1:{self.web_port}"

    def wait_for(self, text: str, path: str = "/traces") -> None:
        """Wait until a view has a text; an incomplete trace is shown after 10 s."""
        wait_until(lambda: text in self.get(path)[1], 20, lambda: self.get(path)[1])

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def runs_now(task: str, count: int, *, failed: int = 0, name: str = "") -> bytes:
    """Return a request with traces of runs that end now."""
    made = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "shop-worker"}))
    provider.add_span_processor(SimpleSpanProcessor(made))
    for number in range(count):
        span = provider.get_tracer("t").start_span(
            name or f"run/{task}", kind=SpanKind.CONSUMER,
            attributes={"celery.task_name": task, "celery.wait.broker": 0.5},
            start_time=time.time_ns() - (number + 1) * 7 * MS,
        )  # fmt: skip
        if number < failed:
            span.set_status(StatusCode.ERROR, "declined")
        span.end()
    return bytes(encode_spans(made.get_finished_spans()).SerializeToString())


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose errors, and whose requests to anywhere else, fail the test."""
    context = browser.new_context()
    found = context.new_page()
    errors: list[str] = []
    asked: set[str] = set()
    found.on(
        "console",
        lambda each: errors.append(each.text) if each.type == "error" else None,
    )
    found.on("pageerror", lambda each: errors.append(str(each)))
    found.on("dialog", lambda each: errors.append(each.message))
    found.on("request", lambda each: asked.add(each.url.split("/")[2]))
    yield found
    context.close()
    assert errors == []
    assert len(asked) == 1


def test_the_table_of_tasks_changes_as_they_run(launcher: Launcher, page: Page) -> None:
    web = Web(launcher)
    page.goto(web.url)
    assert "No task has run yet" in page.locator("main").inner_text()
    web.send(runs_now("shop.pay", 3, failed=1))
    row = page.locator("tbody tr")
    row.wait_for(timeout=10_000)  # without a reload
    assert row.locator("th").inner_text() == "shop.pay"
    numbers = row.locator("td.number")  # the three traces may come one after the other
    wait_until(lambda: numbers.first.inner_text() == "3", 10, lambda: page.content())
    cells = [cell.inner_text() for cell in numbers.all()]
    assert cells[:7] == ["3", "0.1", "1", "0", "0", "", "0"]
    assert cells[-1] == "500 ms"
    page.locator("#totals", has_text="3 runs,").wait_for(timeout=10_000)
    web.send(runs_now("shop.mail", 1))
    page.locator("tbody tr >> nth=1").wait_for(timeout=10_000)

    row.first.locator("td a[href^='/trace/']").last.click()  # the slowest one's trace
    assert page.url.startswith(f"{web.url}/trace/")
    assert page.locator(".waterfall tbody tr").count() == 1


def test_a_pause_holds_the_page_still(launcher: Launcher, page: Page) -> None:
    web = Web(launcher)
    page.goto(web.url)
    page.get_by_role("button", name="Pause").click()
    assert page.locator("#pause").get_attribute("aria-pressed") == "true"
    web.send(runs_now("shop.pay", 1))
    web.wait_for("shop.pay", "/")
    assert "No task has run yet" in page.locator("main").inner_text()
    page.get_by_role("button", name="Go on").click()
    page.locator("tbody tr").wait_for(timeout=10_000)


def test_traces_are_filtered_and_each_has_an_address(
    launcher: Launcher, page: Page
) -> None:
    web = Web(launcher)
    web.send(a_fleet())
    page.goto(f"{web.url}/traces")
    names = page.locator("tbody th")
    wait_until(lambda: names.count() == 3, 15, lambda: page.content())
    page.get_by_label("state").select_option("ERROR")
    page.get_by_label("text or id").fill("DECLINED")
    page.keyboard.press("Enter")
    page.wait_for_url("**/traces?*")
    assert [each.inner_text() for each in names.all()] == ["POST /checkout"]
    names.locator("a").click()
    rows = page.locator(".waterfall tbody tr")
    assert [row.locator("summary").inner_text().split()[0] for row in rows.all()] == [
        "POST", "apply_async/pay", "run/pay", "INSERT",
    ]  # fmt: skip
    assert page.locator("rect.wait").count() == 1
    rows.nth(2).locator("summary").click()
    told = rows.nth(2).locator("dl")
    assert "<script>document.title = 'bad'</script>" in told.inner_text()

    story = Story()  # more of the same trace: what is open stays open
    checkout(story)
    trace_id = page.url.rpartition("/")[2]
    more = story.spans()[0]
    assert page.title() != "bad"
    assert web.get(f"/trace/{trace_id}")[0] == 200
    assert web.get("/trace/" + "0" * 32)[0] == 404
    assert more.name
    assert told.is_visible()


def test_lost_tasks_and_orphans_have_lists_of_their_own(
    launcher: Launcher, page: Page
) -> None:
    web = Web(launcher)
    web.send(a_fleet())
    page.goto(f"{web.url}/problems")
    tables = page.locator("table.list")
    mail = page.get_by_text("run/shop.mail")  # an incomplete trace is shown after 10 s
    wait_until(lambda: mail.count() > 0, 25, lambda: page.content())
    lost, orphans = (
        each.locator("tbody th").all_inner_texts() for each in tables.all()
    )
    assert lost == ["run/shop.report"]
    assert set(orphans) == {"run/shop.mail", "run/shop.report"}


def test_workers_say_what_they_deliver(
    launcher: Launcher, broker: str, page: Page
) -> None:
    web = Web(launcher)
    worker = launcher.worker(
        OTEL_EXPORTER_OTLP_ENDPOINT=web.endpoint, OTEL_METRIC_EXPORT_INTERVAL="500"
    )
    run_some(Producer(broker), 3)
    page.goto(f"{web.url}/workers")
    row = page.locator("tbody tr", has_text="worker").first
    wait_until(
        lambda: row.count() > 0 and row.locator("td.number").nth(2).inner_text() == "3",
        20, lambda: page.content(),
    )  # fmt: skip
    assert " of " in row.inner_text()  # its pool
    assert "process" in row.inner_text()
    queues = page.locator("table", has=page.get_by_text("Queues", exact=True))
    queues.locator("tbody tr").first.wait_for(timeout=20_000)
    assert "celery" in queues.locator("tbody th").all_inner_texts()
    page.goto(web.url)
    task = page.locator("tbody tr", has_text="shop.noop")
    task.wait_for(timeout=15_000)
    assert task.locator("td.number").nth(5).inner_text() == "0"  # in its queue
    worker.stop()


def test_it_works_by_keyboard(launcher: Launcher, page: Page) -> None:
    web = Web(launcher)
    web.send(runs_now("shop.pay", 2))
    web.send(runs_now("shop.mail", 1))
    page.goto(web.url)
    page.locator("tbody tr >> nth=1").wait_for(timeout=10_000)
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "shop.mail"
    web.send(runs_now("shop.mail", 5))  # which goes up: the keyboard stays on it
    page.locator("#totals", has_text="8 runs").wait_for(timeout=10_000)
    assert page.evaluate("document.activeElement.textContent") == "shop.mail"
    page.keyboard.press("/")
    page.keyboard.type("pay")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=pay*")
    assert page.locator("tbody th").all_inner_texts() == ["shop.pay"]
    page.get_by_role("link", name="failed").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=failed*")
    assert page.locator("th[aria-sort]").inner_text() == "failed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/traces", "/problems", "/workers", "trace"])
def test_no_view_has_a_barrier(
    launcher: Launcher, browser: Browser, path: str, scheme: Any
) -> None:
    """By the rules of axe-core."""
    web = Web(launcher)
    web.send(a_fleet())
    web.send(runs_now("shop.pay", 3, failed=1))
    web.wait_for("run/shop.report")
    if path == "trace":
        found = re.search(r'href="(/trace/\w+)">POST', web.get("/traces")[1])
        assert found
        path = found[1]
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(web.url + path)
    page.locator("tbody tr").first.wait_for(timeout=10_000)
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    result = page.evaluate("axe.run()")
    context.close()
    assert [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in result["violations"]
    ] == []


@pytest.mark.parametrize("path", ["/", "/traces?state=ERROR", "/problems", "/workers"])
def test_without_a_script_it_is_the_same_page(
    launcher: Launcher, browser: Browser, path: str
) -> None:
    web = Web(launcher)
    web.send(a_fleet())
    web.wait_for("run/shop.report")
    shown = []
    for has_scripts in (False, True):
        context = browser.new_context(java_script_enabled=has_scripts)
        page = context.new_page()
        page.goto(web.url + path)
        text = page.locator("#live").inner_text()
        shown.append(re.sub(r"[\d.]+ m?s ago", "", text))
        context.close()
    assert shown[0] == shown[1] != ""


def test_hostile_names_are_text(launcher: Launcher, page: Page) -> None:
    web = Web(launcher)
    web.send(runs_now(HOSTILE, 2, name=HOSTILE))
    story = Story()
    orphan(story, HOSTILE)
    web.send(story.request())
    web.wait_for("onerror", "/problems")
    for path in (
        "/",
        "/traces",
        "/problems",
        "/workers",
        f"/traces?text={HOSTILE[:9]}",
    ):
        page.goto(web.url + path)
        page.locator("#live").wait_for()
        assert page.title().endswith("otel-celery")
        assert page.locator("#live img, #live script").count() == 0
        assert "\x1b" not in web.get(path.replace("<", "%3C"))[1]
    page.goto(web.url)
    page.locator("tbody tr").first.wait_for(timeout=10_000)
    assert HOSTILE[:8] in page.locator("tbody").inner_text()


def test_a_policy_forbids_what_the_page_does_not_need(launcher: Launcher) -> None:
    web = Web(launcher)
    status, text, headers = web.get("/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in text
    assert " style=" not in text
    assert " on" not in re.sub(r">[^<]*<", "><", text).replace(" only", "")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_of_another_site_cannot_read_it(launcher: Launcher) -> None:
    """Whose name leads to this machine (DNS rebinding)."""
    web = Web(launcher)
    assert web.get("/", Host="attacker.example")[0] == 403
    assert web.get("/tasks.json", Host="attacker.example:4319")[0] == 403
    assert web.get("/", Host=f"localhost:{web.web_port}")[0] == 200


def test_nothing_is_read_behind_a_request(launcher: Launcher) -> None:
    """Which a proxy may take for part of it."""
    web = Web(launcher)
    with socket.create_connection(("127.0.0.1", web.web_port), timeout=10) as client:
        hidden = b"GET /traces HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = f"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(hidden)}"
        client.sendall(head.encode() + b"\r\n\r\n" + hidden)
        answers = b""
        while part := client.recv(65536):
            answers += part
    assert answers.startswith(b"HTTP/1.1 400")
    assert answers.count(b"HTTP/1.1") == 1


def test_another_site_starts_no_stream(launcher: Launcher) -> None:
    web = Web(launcher)
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert web.get("/live", **cross)[0] == 403
    assert web.get("/", **{**cross, "Sec-Fetch-Mode": "navigate"})[0] == 200


def test_figures_that_no_worker_has_break_no_view(launcher: Launcher) -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    for name, value in (("a", 1.7e308), ("b", 1.7e308), ("c", float("nan"))):
        point = metrics.add(name="celery.queue.messages").gauge.data_points.add()
        point.as_double = value
        for key, said in (
            ("celery.task_name", "t"),
            ("messaging.destination.name", name),
        ):
            point.attributes.add(key=key).value.string_value = said
    web = Web(launcher)
    web.send(runs_now("t", 1))
    with grpc.insecure_channel(f"127.0.0.1:{web.port}") as channel:
        channel.unary_unary(METRICS_METHOD)(request.SerializeToString(), timeout=10)
    web.wait_for("/traces?task=t", "/")
    assert web.get("/workers")[0] == 200


@pytest.mark.parametrize("words", [["--web", "--errors"], ["--web"], ["--web", "4319"]])
def test_the_port_may_be_left_out(words: list[str]) -> None:
    assert tail.make_context("tail", words).params["web"] == WEB_PORT


def test_others_need_the_token(launcher: Launcher) -> None:
    refused = launcher.start("tail", "--web", "0", "--web-host", "0.0.0.0")
    assert refused.popen.wait(20) == 78
    assert "expected a --token" in refused.output
    token = "a-long-random-text"
    web = Web(launcher, "--web-host", "0.0.0.0", "--token", token)
    assert token not in web.process.output
    for path in ("/", "/tasks.json", "/live", "/?token=wrong", "/?token=%ff"):
        assert web.get(path)[0] == 401
    status, _, headers = web.get(f"/?token={token}")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie  # a link from somewhere else works, too
    assert web.get("/", Cookie=cookie.partition(";")[0])[0] == 200
    others = 'prefs={"a":1}; '  # of another program on this machine
    assert web.get("/", Cookie=others + cookie.partition(";")[0])[0] == 200
    assert web.get("/tasks.json", Authorization=f"Bearer {token}")[0] == 200
    assert web.get("/tasks.json", Authorization="Bearer no")[0] == 401


def test_a_browser_that_has_stopped_reading_slows_nobody(launcher: Launcher) -> None:
    """60,000 spans, as fast as they come, while events are not taken."""
    web = Web(launcher, "--errors")
    stopped = []
    for _ in range(5):
        browser = socket.create_connection(("127.0.0.1", web.web_port))
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        browser.sendall(b"GET /live?view=/traces HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stopped.append(browser)
    send_60000_spans(web)
    memory = psutil.Process(web.process.popen.pid).memory_info().rss
    assert memory < 450e6
    assert web.get("/")[0] == 200
    for browser in stopped:
        browser.close()
    assert web.end()[-1].startswith("6000 traces, 60000 spans")


def test_a_taken_port_is_said(launcher: Launcher) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        tail = launcher.start("tail", "--port", "0", "--http-port", "0", "--web", port)
        assert tail.popen.wait(20) != 0
    assert f"--web is {port}: expected a free port" in tail.output


# otel-celery top


def test_top_asks_a_page_and_says_if_there_is_none(launcher: Launcher) -> None:
    web = Web(launcher)
    web.send(runs_now("shop.pay", 3, failed=1))
    web.wait_for("shop.pay", "/")
    top = launcher.start("top", "--once", "--endpoint", web.url)
    assert top.popen.wait(20) == 0
    head, row, totals = top.output.splitlines()
    assert head.split()[:3] == ["task", "runs", "failed"]
    assert row.split()[:3] == ["shop.pay", "3", "1"]
    assert totals.startswith("3 traces, 3 spans")
    gone = launcher.start("top", "--endpoint", f"127.0.0.1:{free_port()}")
    assert gone.popen.wait(20) != 0
    assert "expected the page of `otel-celery tail --web`" in gone.output


def test_top_receives_by_itself(launcher: Launcher) -> None:
    port, http_port = str(free_port()), str(free_port())
    top = launcher.start("top", "--port", port, "--http-port", http_port)
    top.wait_for_output("export OTEL")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        channel.unary_unary(METHOD)(runs_now("shop.pay", 2), timeout=10)
    top.wait_for_output("shop.pay", seconds=15)
    top.stop()
    assert top.popen.returncode == 0


def test_the_figures_are_json_for_others(launcher: Launcher) -> None:
    web = Web(launcher)
    web.send(runs_now("shop.pay", 2))
    web.wait_for("shop.pay", "/")
    (row,) = json.loads(web.get("/tasks.json")[1])["tasks"]
    assert (row["name"], row["runs"], row["wait_p95"]) == ("shop.pay", 2, 0.5)


def test_the_demo_has_a_page(launcher: Launcher, page: Page) -> None:
    demo = launcher.start("demo", "--web", "0")
    demo.wait_for_output("Ctrl-C ends the page", seconds=60)
    found = re.search(r"the live page is (http://\S+)", demo.output)
    assert found
    page.goto(found[1])
    names = page.locator("tbody th").all_inner_texts()
    assert {"reserve_stock", "charge_card", "send_email", "update_search"} <= set(names)
    demo.stop()
    assert demo.popen.returncode == 0
