"""Settings, read from an environment."""

from __future__ import annotations

import pytest

from otel_celery_launcher.command_line import CommandLine, read_command_line
from otel_celery_launcher.settings.settings import Settings
from otel_celery_launcher.settings.variable import Note


def command_line(*words: str) -> CommandLine:
    return read_command_line(words or ("-A", "proj.celery", "worker"), {})


def settings(*words: str, **environ: str) -> Settings:
    return Settings.from_environ(environ, command_line(*words))


def texts(notes: tuple[Note, ...]) -> tuple[str, ...]:
    return tuple(note.text for note in notes)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_SERVICE_NAME": "orders"}, "orders"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=or%20ders"}, "or ders"),
        ({"OTEL_CELERY_SERVICE_NAME": "{name}-{role}"}, "proj-worker"),
        (
            {
                "OTEL_SERVICE_NAME": "orders",
                "OTEL_CELERY_SERVICE_NAME": "{role}.{name}",
            },
            "worker.orders",
        ),
        ({}, "proj-worker"),
    ],
)
def test_service_name(environ: dict[str, str], name: str) -> None:
    assert settings(**environ).service_name == name


def test_name_without_the_role_is_one_warning() -> None:
    assert texts(settings(OTEL_SERVICE_NAME="orders").notes) == (
        "the service name 'orders' does not contain the role 'worker', so worker, beat"
        ' and producer look alike; set OTEL_CELERY_SERVICE_NAME="{name}-{role}"',
    )
    assert settings(OTEL_SERVICE_NAME="orders-worker").notes == ()


def test_no_name_is_one_warning() -> None:
    assert texts(settings("-A", "config", "beat").notes) == (
        "no service name is set: using 'config-beat'; set OTEL_SERVICE_NAME=<name> and"
        ' OTEL_CELERY_SERVICE_NAME="{name}-{role}"',
    )


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "port is 4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "no scheme, which means TLS"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///run/otel.sock"},
            "'unix:///run/otel.sock' is no http:// URL, which means TLS; set"
            " OTEL_EXPORTER_OTLP_INSECURE=true",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "no scheme;",
        ),
    ],
)
def test_likely_mistake_in_the_endpoint_is_a_line(
    environ: dict[str, str], words: str
) -> None:
    (note,) = settings(OTEL_SERVICE_NAME="a-worker", **environ).notes
    assert words in note.text


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_grpc_with_an_event_loop_pool_is_a_line(pool: str) -> None:
    words = ("-A", "shop", "worker", "-P", pool)
    environ = {"OTEL_SERVICE_NAME": "shop-worker", "OTEL_CELERY_EXPORT": "inline"}
    (note,) = settings(*words, **environ).notes
    assert note.text.startswith(f"gRPC blocks the event loop of {pool}")
    http = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert settings(*words, **environ, **http).notes == ()
    assert settings(*words, OTEL_SERVICE_NAME="shop-worker").notes == ()


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ("worker", "process"),
        ("worker -P prefork", "process"),
        ("worker -P gevent", "process"),
        ("worker -P threads", "process"),
        ("worker --pool=solo", "process"),
        ("beat", "inline"),
        ("call shop.noop", "inline"),
    ],
)
def test_mode_by_role_and_pool(words: str, mode: str) -> None:
    line = ("-A", "shop", *words.split())
    assert settings(*line).mode == mode
    assert settings(*line, OTEL_CELERY_EXPORT="process").mode == "process"
    assert settings(*line, OTEL_CELERY_EXPORT="inline").mode == "inline"
    assert settings(*line, OTEL_TRACES_EXPORTER="console").mode == "inline"


def test_what_is_set_but_not_handled_is_named() -> None:
    found = settings(
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_CONFIG_FILE="otel.yaml",
        OTEL_PYTHON_METER_PROVIDER="mine",
    )
    assert found.unhandled == ("OTEL_CONFIG_FILE", "OTEL_PYTHON_METER_PROVIDER")


def test_log_records_stay_unless_they_are_asked_for() -> None:
    assert not settings().exports_logs
    assert not settings(OTEL_LOGS_EXPORTER="none").exports_logs
    assert settings(OTEL_LOGS_EXPORTER="otlp").exports_logs
