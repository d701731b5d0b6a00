# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Log records as they come over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)

from otel_celery_launcher.receiver.span_limit import check_log_records
from otel_celery_launcher.receiver.spans import (
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    parse_request,
    read_attributes,
    read_id,
    read_value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLog:
    """A log record as it came over the wire; times in seconds since the epoch.

    Attributes:
        logger: Name of the scope.
        severity: Number of the data model.
        trace_id: Empty outside of a span.
        span_id: Likewise.
    """

    logger: str
    time: float
    severity: int
    severity_text: str
    body: Any
    event: str  # its name; empty of a line
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def service(self) -> str:
        """The service it belongs to."""
        return str(self.resource.get("service.name", ""))


def read_logs(data: bytes, *, is_brief: bool = False) -> list[ReceivedLog]:
    """Return the log records of an OTLP request.

    Args:
        data: The request's bytes.
        is_brief: Leave out the resource.

    Raises:
        ValueError: It is not a request, or has too many records.
    """
    check_log_records(data)
    request = parse_request(ExportLogsServiceRequest, data, "logs")
    found = []
    for resource_logs in request.resource_logs:
        resource = (
            {} if is_brief else read_attributes(resource_logs.resource.attributes)
        )
        for scope_logs in resource_logs.scope_logs:
            found += [
                ReceivedLog(
                    logger=scope_logs.scope.name,
                    time=(record.time_unix_nano or record.observed_time_unix_nano)
                    / 1e9,
                    severity=record.severity_number,
                    severity_text=record.severity_text,
                    body=read_value(record.body),
                    event=getattr(record, "event_name", ""),  # since OTLP 1.5
                    trace_id=read_id(record.trace_id, TRACE_ID_BYTES),
                    span_id=read_id(record.span_id, SPAN_ID_BYTES),
                    attributes=read_attributes(record.attributes),
                    resource=resource,
                )
                for record in scope_logs.log_records
            ]
    return found
