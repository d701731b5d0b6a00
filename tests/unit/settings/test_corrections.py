"""Bad values and what takes their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_celery_launcher.settings.corrections import correct_environment, is_disabled
from otel_celery_launcher.settings.reference import reference
from otel_celery_launcher.settings.standard_variables import VARIABLES
from tests.support.bad_values import BAD_VALUES
from tests.support.hostile_values import PRIVATE_KEY

ROOT = Path(__file__).parent.parent.parent.parent


def test_docs_are_written_from_the_table() -> None:
    """docs/settings.md names each row; `make docs` writes it."""
    assert (ROOT / "docs" / "settings.md").read_text() == reference()


def test_each_checked_variable_has_a_bad_value_in_the_tests() -> None:
    unchecked = {"OTEL_SERVICE_NAME", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"}
    unchecked |= {"OTEL_CELERY_NEW_TRACE_TASKS"}  # any text is a glob
    unchecked |= {"OTEL_CELERY_WEB_TOKEN"}  # any text is one
    unchecked |= {"OTEL_CELERY_ENV_FILE"}  # a missing file is status 78
    unchecked |= {"OTEL_CELERY_HEALTH_FILE"}  # the worker says so when it writes
    unchecked |= {"OTEL_CELERY_SPOOL_DIRECTORY"}  # the exporter process opens it
    unchecked |= {"OTEL_EXPORTER_PROMETHEUS_HOST"}  # the exporter process listens there
    assert set(BAD_VALUES) == {row.name for row in VARIABLES} - unchecked


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_is_one_line_and_replaced(name: str) -> None:
    value, used = BAD_VALUES[name]
    environ = {name: value}
    if name == "OTEL_TRACES_SAMPLER_ARG":
        environ["OTEL_TRACES_SAMPLER"] = "traceidratio"
    (line,) = map(str, correct_environment(environ))
    assert line.startswith(f"{name} is ")
    assert "expected" in line
    assert "using" in line
    assert environ.get(name) == used
    assert list(map(str, correct_environment(environ))) == [], (
        "what is used instead is good"
    )


LINES = {
    ("OTEL_PROPAGATORS", "tracecontext,bagage"): (
        "OTEL_PROPAGATORS is 'tracecontext,bagage': expected installed propagators;"
        " 'bagage' is not installed or misspelt; using tracecontext"
    ),
    ("OTEL_TRACES_SAMPLER", "always"): (
        "OTEL_TRACES_SAMPLER is 'always': expected an installed sampler; using"
        " parentbased_always_off"
    ),
    ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret,broken"): (
        "OTEL_EXPORTER_OTLP_HEADERS is set (value not shown): expected key=value pairs,"
        " percent-encoded, separated by commas; item 2 is none; using its other items"
    ),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:s3cret@host"): (
        "OTEL_EXPORTER_OTLP_ENDPOINT is 'ftp://host': expected a URL such as"
        " http://collector:4317; using http://localhost:4317"
    ),
    ("OTEL_CELERY_SHUTDOWN_SECONDS", "ten"): (
        "OTEL_CELERY_SHUTDOWN_SECONDS is 'ten': expected a number from 0 to 60; using 5"
    ),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", PRIVATE_KEY): (
        "OTEL_EXPORTER_OTLP_CLIENT_KEY is set (value not shown): expected the path of a"
        " readable PEM file; using nothing"
    ),
    ("OTEL_PROPAGATORS", PRIVATE_KEY): (
        "OTEL_PROPAGATORS is (315 characters, not shown): expected installed"
        " propagators; (314 characters, not shown) is not installed or misspelt; using"
        " tracecontext"
    ),
    ("OTEL_CELERY_SERVICE_NAME", "{role.x}"): (
        "OTEL_CELERY_SERVICE_NAME is '{role.x}': expected text with {name} and {role},"
        " such as {name}-{role}; using nothing"
    ),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "9999999999"): (
        "OTEL_BSP_MAX_QUEUE_SIZE is '9999999999': expected a whole number from 1 to"
        " 2147483647; using 2048"
    ),
    ("OTEL_PYTHON_LOG_CORRELATION", "yes"): (
        "OTEL_PYTHON_LOG_CORRELATION is 'yes': expected true or false; using false"
    ),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"): (
        "OTEL_EXPORTER_OTLP_TIMEOUT is '0': expected a number over 0 and up to 3600;"
        " using 10"
    ),
}


@pytest.mark.parametrize(("name", "value"), LINES)
def test_text_of_a_line(name: str, value: str) -> None:
    assert list(map(str, correct_environment({name: value}))) == [LINES[name, value]]


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none", None),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", " GRPC ", "grpc"),
        ("OTEL_SDK_DISABLED", "TRUE", "true"),
        ("OTEL_TRACES_SAMPLER", "ALWAYS_ON", "always_on"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "unix:///run/otel.sock",
            "unix:///run/otel.sock",
        ),
        ("OTEL_CELERY_STRICT", "on", "true"),
        ("OTEL_SDK_DISABLED", "False", "false"),
        ("OTEL_PYTHON_LOG_CORRELATION", "True", "true"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE", "true"),
        ("OTEL_PROPAGATORS", "tracecontext,,baggage", "tracecontext,baggage"),
        *(
            ("OTEL_EXPORTER_OTLP_ENDPOINT", target, target)
            for target in (
                "ipv4:10.0.0.1:4317,10.0.0.2:4317",
                "ipv6:[::1]:4317",
                "unix:run/otel.sock",
                "unix-abstract:otel",
                "vsock:2:4317",
                "dns:a:1,b:2",
                "dns:///collector:4317",
                "xds:///collector",
            )
        ),
        ("OTEL_PROPAGATORS", "", None),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "collector:4317"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0", "0"),
    ],
)
def test_good_value_is_kept_or_put_as_the_sdk_reads_it(
    name: str, value: str, left: str | None
) -> None:
    environ = {name: value}
    assert list(map(str, correct_environment(environ))) == []
    assert environ.get(name) == left


def test_batch_larger_than_the_queue_becomes_the_queue() -> None:
    """The SDK raises on it."""
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "100"}
    assert list(map(str, correct_environment(environ))) == []
    assert environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] == "100"
    environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "200"
    assert list(map(str, correct_environment(environ))) == [
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '200': expected at most"
        " OTEL_BSP_MAX_QUEUE_SIZE; using 100"
    ]


def test_deflate_with_grpc_is_a_bad_value() -> None:
    """The gRPC exporter raises on it."""
    environ = {"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"}
    assert list(map(str, correct_environment(environ))) == [
        "OTEL_EXPORTER_OTLP_COMPRESSION is 'deflate': expected none or gzip with grpc;"
        " using none"
    ]
    assert environ == {}


@pytest.mark.parametrize("word", ["true", "TRUE", " True ", "1", "yes", "on", ""])
def test_only_true_disables(word: str) -> None:
    assert is_disabled({"OTEL_SDK_DISABLED": word}) is (word.strip().lower() == "true")


@pytest.mark.parametrize(
    "prefix", ["OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"]
)
def test_half_of_a_certificates_pair_is_unset_for_grpc(
    prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    file.touch()
    environ = {f"{prefix}CLIENT_KEY": str(file)}
    assert list(map(str, correct_environment(environ))) == [
        f"{prefix}CLIENT_KEY is set (value not shown): expected"
        f" {prefix}CLIENT_CERTIFICATE beside it; using neither"
    ]
    assert environ == {}
    pair = {f"{prefix}CLIENT_{each}": str(file) for each in ("KEY", "CERTIFICATE")}
    assert list(map(str, correct_environment(dict(pair)))) == []
    http = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    environ = {f"{prefix}CLIENT_CERTIFICATE": str(file), **http}
    assert list(map(str, correct_environment(environ))) == [], (
        "its file may hold the key, too"
    )


def test_targets_of_grpc_are_bad_values_with_http() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///run/otel.sock",
    }
    assert list(map(str, correct_environment(environ))) == [
        "OTEL_EXPORTER_OTLP_ENDPOINT is 'unix:///run/otel.sock': expected a URL such as"
        " http://collector:4318 with http/protobuf; using http://localhost:4318"
    ]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environ


def test_what_takes_the_place_of_a_bad_endpoint_is_named() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ftp://collector",
    }
    (line,) = map(str, correct_environment(environ))
    assert line.endswith("; using OTEL_EXPORTER_OTLP_ENDPOINT")
