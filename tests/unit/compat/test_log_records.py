"""The record that the SDK's exporters of logs take, through its own encoder."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat.log_records import new_record
from otel_celery_launcher.ipc.datagrams import FrameError
from otel_celery_launcher.ipc.log_frames import (
    LOG_BYTES,
    LogItem,
    encode_log,
    read_log,
    read_log_item,
)

ITEM = LogItem(
    logger="shop.orders",
    time=1_790_000_000_000_000_001,
    severity=13,
    severity_text="WARN",
    body="sold out",
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0xB7AD6B7169203331,
    trace_flags=1,
    attributes={"sku": "a", "left": 0, "is_new": True, "parts": ["b", "c"], "p": 1.5},
)


def test_all_of_it_is_in_the_request() -> None:
    resource = Resource({"service.name": "shop"})
    record: Any = read_log(resource, encode_log(ITEM))
    (of_resource,) = encode_logs([record]).resource_logs
    assert of_resource.resource.attributes[0].value.string_value == "shop"
    (of_scope,) = of_resource.scope_logs
    assert of_scope.scope.name == "shop.orders"
    (found,) = of_scope.log_records
    assert found.time_unix_nano == found.observed_time_unix_nano == ITEM.time
    assert (found.severity_number, found.severity_text) == (13, "WARN")
    assert found.body.string_value == "sold out"
    assert found.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert found.span_id.hex() == "b7ad6b7169203331"
    assert found.flags == 1
    attributes = {each.key: each.value for each in found.attributes}
    assert attributes["sku"].string_value == "a"
    assert attributes["left"].int_value == 0
    assert attributes["is_new"].bool_value is True
    assert len(attributes["parts"].array_value.values) == 2


@pytest.mark.filterwarnings("error")
def test_one_outside_of_a_span_has_no_trace_and_warns_of_nothing() -> None:
    outside = ITEM._replace(trace_id=0, span_id=0, trace_flags=0, severity=0)
    record = new_record(outside, Resource({}))
    (of_resource,) = encode_logs([record]).resource_logs
    found = of_resource.scope_logs[0].log_records[0]
    assert not found.trace_id
    assert not found.span_id
    assert found.severity_number == 0


def test_what_is_too_large_for_a_datagram_is_cut() -> None:
    large = ITEM._replace(
        body="ä" * 65_536,
        attributes={"short": "kept", **{f"k{i}": "ö" * 65_536 for i in range(9)}},
        logger="l" * 200_000,
    )
    data = encode_log(large)
    assert len(data) <= LOG_BYTES
    item = read_log_item(data)
    assert item.body.startswith("ää")
    assert item.attributes == {"short": "kept"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        encode_log(ITEM)[:-1],
        encode_log(ITEM._replace(severity=99)),
        encode_log(ITEM._replace(severity="x")),
        encode_log(ITEM._replace(attributes=3)),
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        read_log(Resource({}), data)
