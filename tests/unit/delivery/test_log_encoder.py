"""Log records are encoded as the SDK encodes them, whatever is in them."""

from __future__ import annotations

import copy
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat import log_records
from otel_celery_launcher.delivery import log_encoder
from otel_celery_launcher.delivery.log_encoder import (
    encode_logs,
    encode_logs_slowly,
)
from otel_celery_launcher.ipc.log_frames import FramedLog, LogItem, encode_log, read_log

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
scalars = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
# SDKs without the field (to 1.34) make an attribute of it; they drop what has no name,
# and decode what is bytes.
HAS_EVENTS = log_records._has("event_name")
values = st.one_of(
    scalars,
    st.lists(texts, max_size=3),
    *([st.binary(max_size=9)] if HAS_EVENTS else []),
)
bodies = st.recursive(
    st.one_of(texts, st.integers(-(2**63), 2**63 - 1)),
    lambda below: st.dictionaries(texts, below, max_size=3),
    max_leaves=5,
)
items = st.builds(
    LogItem,
    logger=st.sampled_from(["", "shop", "é"]),
    time=st.integers(1, 2**63),
    severity=st.integers(0, 24),
    severity_text=st.sampled_from(["", "INFO", "ÄRGER"]),
    body=bodies,
    trace_id=st.sampled_from([1, 2**127 + 1]),
    span_id=st.sampled_from([1, 2**63 + 1]),
    trace_flags=st.sampled_from([0, 1]),
    attributes=st.dictionaries(
        st.one_of(
            st.text(string.ascii_letters, min_size=1, max_size=200),
            texts if HAS_EVENTS else texts.filter(bool),
        ),
        values,
        max_size=4,
    ),
    event=st.sampled_from(["", "job.done"] if HAS_EVENTS else [""]),
)
RESOURCES = [Resource({"service.name": "a"}), Resource({"b": 1}, "https://b.example")]


def records(request: Any) -> list[bytes]:
    """Return the records of a request, each with its resource and its scope."""
    return sorted(
        b"|".join(
            each.SerializeToString(deterministic=True)
            for each in (block.resource, part.scope, record)
        )
        for block in request.resource_logs
        for part in block.scope_logs
        for record in part.log_records
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(RESOURCES), items), max_size=5))
def test_a_request_is_what_the_sdk_makes(given_items: list[tuple[Any, Any]]) -> None:
    framed = [read_log(resource, encode_log(item)) for resource, item in given_items]
    assert records(encode_logs(framed)) == records(encode_logs_slowly(framed))


def test_the_installed_sdk_is_encoded_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert log_encoder.is_faithful()
    monkeypatch.setattr(log_encoder, "_ATTRIBUTE", b"\x3a")
    log_encoder._headers._kept.clear()
    assert not log_encoder.is_faithful()


def test_another_exporter_finds_the_sdks_record() -> None:
    item = LogItem("shop", 5, 9, "INFO", "x", 1, 2, 1, {"a": 1})
    record = FramedLog(item, RESOURCES[0])
    assert record.log_record.body == "x"
    assert record.log_record is record.log_record
    assert record.instrumentation_scope.name == "shop"
    with pytest.raises(AttributeError):
        record.nothing  # noqa: B018
    again = copy.copy(record)
    assert (again.item, again.log_record.body) == (item, "x")


def test_numbers_that_are_none_of_the_models_are_left_to_the_sdk() -> None:
    item = LogItem("shop", 5, 9, "INFO", "x", 1, 2, -1, {})
    good = item._replace(trace_flags=1)
    assert log_encoder._encode_fast(item) is None
    assert log_encoder._encode_fast(good) is not None
