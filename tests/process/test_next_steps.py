"""``otel-celery doctor`` says what is wrong with a collector, and what to type next."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from otel_celery_launcher.receiver.memory import Receiver
from tests.process.test_doctor import examine, of
from tests.support.otlp_http import QuietHandler, serve_http
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.harness import Launcher

HTTP = "http/protobuf"


@contextmanager
def refusing(code: grpc.StatusCode) -> Iterator[str]:
    """Serve gRPC that answers so; yields its URL."""

    def answer(context: grpc.ServicerContext) -> None:
        context.abort(code, "not you")

    with Receiver(answer=answer) as receiver:
        yield receiver.endpoint


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Serve HTTP that answers so; yields its URL."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()

    with serve_http(Handler) as url:
        yield url


def test_the_path_of_the_traces_own_endpoint_may_be_a_key(launcher: Launcher) -> None:
    """Some vendors have keys in paths, so what is not the standard's is not shown."""
    with answering(404) as url:
        _, findings = examine(
            launcher,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{url}/s3cr3t",
            OTEL_EXPORTER_OTLP_PROTOCOL=HTTP,
        )
    (line,) = of(findings, "test span")
    assert "at the path that you gave" in line
    assert "s3cr3t" not in str(findings)


def test_the_usual_misspelling_of_the_endpoint(launcher: Launcher) -> None:
    _, findings = examine(launcher, OTEL_EXPORTER_ENDPOINT="http://c:4317")
    (finding,) = [each for each in findings if each["check"] == "variables"]
    assert finding["next"] == "write OTEL_EXPORTER_OTLP_ENDPOINT"


def test_a_sampler_that_keeps_nothing_is_a_warning(launcher: Launcher) -> None:
    for environ in (
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    ):
        _, findings = examine(launcher, **environ)
        assert any(
            line.startswith("WARN") and "no trace that begins here is kept" in line
            for line in of(findings, "export")
        )


def test_the_role_decides_which_files_count(launcher: Launcher) -> None:
    (launcher.folder / ".env.web").write_text("OTEL_SERVICE_NAME=from-the-file\n")
    _, findings = examine(launcher, "--role", "web", OTEL_CELERY_SERVICE_NAME="")
    (name,) = [each for each in findings if each["check"] == "service name"]
    assert "from-the-file" in name["seen"] or name["source"] == "environment"
    (export,) = [each for each in of(findings, "export") if "sampler" in each]
    assert "until the first fork" in export


def test_a_role_that_nothing_runs_in_is_refused(launcher: Launcher) -> None:
    done = launcher.run("doctor", "--role", "nonsense")
    assert done.returncode == 2
    assert "expected worker, beat, flower" in done.stderr
    (launcher.folder / ".env.nonsense").touch()
    done = launcher.run("doctor", "--role", "nonsense", "--wait", "1")
    assert done.returncode == 0, done.stdout


def test_a_line_of_a_file_that_cannot_be_read(launcher: Launcher) -> None:
    """It fails here, and is one line of ours at a worker's start."""
    (launcher.folder / ".env.worker").write_text("OTEL_A=1\nthis is nothing\n")
    status, findings = examine(launcher)
    assert status == 78
    (line,) = of(findings, "files")
    assert line.startswith("FAIL .env.worker, line 2: expected NAME=value")
    worker = launcher.worker()
    worker.stop()
    assert sum(".env.worker, line 2" in line for line in worker.own_lines) == 1
    assert "python-dotenv" not in worker.output


def test_a_misspelt_name_is_a_line_at_the_start(launcher: Launcher) -> None:
    worker = launcher.worker(OTEL_EXPORTER_OTPL_ENDPOINT=f"http://x:{free_port()}")
    worker.stop()
    (line,) = [
        each for each in worker.own_lines if "not a variable that anything" in each
    ]
    assert line.endswith("write OTEL_EXPORTER_OTLP_ENDPOINT")
