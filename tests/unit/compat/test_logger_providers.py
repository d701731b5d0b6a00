"""Events of OpenTelemetry's own API: taken once, and an application's provider wins."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggingHandler
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat.log_records import new_record
from otel_celery_launcher.compat.logger_providers import EventLoggerProvider
from otel_celery_launcher.ipc.log_frames import encode_log, read_log_item
from otel_celery_launcher.logs.events import read_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_celery_launcher.ipc.log_frames import LogItem

SPAN = trace.SpanContext(7, 8, False, trace.TraceFlags(1))


class Taken(list["LogItem"]):
    def take(self, logger: str, fields: Mapping[str, Any]) -> None:
        self.append(read_event(logger, fields, shows_exceptions=True))


def test_an_event_is_a_record_in_its_span() -> None:
    taken = Taken()
    logger = EventLoggerProvider(taken.take).get_logger("genai", "1", attributes={})
    with trace.use_span(trace.NonRecordingSpan(SPAN)):
        logger.emit(
            LogRecord(
                timestamp=5,
                severity_number=SeverityNumber.WARN,
                body={"role": "user", "parts": [1, {"deep": {"er": [2]}}]},
                attributes={"a": 1},
            )
        )
    (item,) = taken
    assert (item.logger, item.time, item.severity) == ("genai", 5, 13)
    assert (item.trace_id, item.span_id, item.trace_flags) == (7, 8, 1)
    assert item.attributes == {"a": 1}
    assert item.body["role"] == "user"
    encoded = encode_logs(
        [new_record(read_log_item(encode_log(item)), Resource.get_empty())]
    )
    (record,) = encoded.resource_logs[0].scope_logs[0].log_records
    assert record.body.kvlist_value.values[0].value.string_value == "user"


def test_an_events_name_arrives() -> None:
    fields = dict.fromkeys(
        ("timestamp", "observed_timestamp", "severity_number", "severity_text", "body",
         "attributes")
    )  # fmt: skip
    item = read_event(
        "genai",
        {**fields, "event_name": "choice", "exception": KeyError("k"), "span": SPAN},
        shows_exceptions=False,
    )
    assert item.attributes == {"exception.type": "KeyError", "exception.stacktrace": ""}
    assert item.time > 0
    encoded = encode_logs([new_record(item, Resource.get_empty())])
    (record,) = encoded.resource_logs[0].scope_logs[0].log_records
    named = {each.key: each.value.string_value for each in record.attributes}
    assert "choice" in (getattr(record, "event_name", ""), named.get("event.name"))


def test_no_message_of_an_exception_leaves_with_an_event_unless_it_may() -> None:
    fields = dict.fromkeys(
        ("timestamp", "observed_timestamp", "severity_number", "severity_text",
         "event_name")
    )  # fmt: skip
    stack = 'Traceback (most recent call last):\n  File "f.py", line 1, in f\nE: secret'
    given = {
        **fields,
        "span": SPAN,
        "exception": ValueError("secret thing"),
        "body": {"text": ["it was: secret thing"]},
        "attributes": {"exception.message": "secret", "exception.stacktrace": stack},
    }
    assert str(read_event("genai", given, shows_exceptions=True)).count("secret") > 2
    assert "secret" not in str(read_event("genai", given, shows_exceptions=False))
    given["exception"] = None
    item = read_event("genai", {**given, "body": "x"}, shows_exceptions=False)
    assert "secret" not in str(item)
    assert "f.py" in item.attributes["exception.stacktrace"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_handler_of_logging_does_not_make_lines_twice() -> None:
    import logging

    taken = Taken()
    handler = LoggingHandler(logger_provider=EventLoggerProvider(taken.take))
    handler.emit(
        logging.makeLogRecord({"msg": "a line", "name": "shop", "levelno": 20})
    )
    assert taken == []


APPLICATION = """
from opentelemetry import _logs
from otel_celery_launcher.compat.logger_providers import provide_events

early = _logs.get_logger("early")  # a proxy, which finds ours
names = []
provide_events(lambda name, fields: names.append(name))
early.emit(_logs.LogRecord(body="x"))
late = _logs.get_logger("late", "2", schema_url="s")
late.emit(_logs.LogRecord(body="x"))
given = []

class OwnLogger(_logs.NoOpLogger):
    def emit(self, *args, **kwargs):
        given.append(self._name)

class Own(_logs.LoggerProvider):
    def get_logger(self, name, *args, **kwargs):
        return OwnLogger(name)

own = Own()
_logs.set_logger_provider(own)
assert _logs.get_logger_provider() is own
_logs.get_logger("own").emit(_logs.LogRecord(body="x"))
late.emit(_logs.LogRecord(body="x"))
assert given == ["own", "late"], given
provide_events(lambda name, fields: names.append("again"))
assert _logs.get_logger_provider() is own
print(names)
"""


def test_an_applications_provider_takes_the_place_of_ours_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("['early', 'late']\n", "")
