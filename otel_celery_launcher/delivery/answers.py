# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a collector has answered, and what follows from it by the protocol's own table.

Source: https://opentelemetry.io/docs/specs/otlp/#failures (OTLP/gRPC and OTLP/HTTP).
Two deliberate additions: answers about keys and permissions may change, since both
rotate, so these items are sent again as well. Imports neither gRPC nor requests.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus

# Begins the error of a batch that no encoder takes, so that nothing was asked.
CANNOT_BE_SENT = "cannot be sent"


# How the error begins of a collector that has no pipeline for a signal.
_UNSUPPORTED_ERRORS = ("UNIMPLEMENTED", "code: 404", "code: 405")


class Verdict(enum.Enum):
    """What becomes of a batch."""

    TAKEN = enum.auto()
    TOO_LARGE = enum.auto()  # a part of it may be taken
    REFUSED = enum.auto()  # the same again would be refused again
    LATER = enum.auto()  # the same may be taken later


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collector has answered.

    Attributes:
        verdict: What it means.
        error: The answer as one line, for the log; empty if all was taken.
        wait_seconds: How long the collector asks to wait; 0 if it does not.
        rejected: Items that it has not taken of a batch that it has (partial success).
        is_unreachable: Whether no answer came, so that a new connection may help.
    """

    verdict: Verdict
    error: str = ""
    wait_seconds: float = 0.0
    rejected: int = 0
    is_unreachable: bool = False

    @property
    def is_unsupported(self) -> bool:
        """Whether the collector has nothing that takes this signal."""
        return is_unsupported(self.error)


def is_unsupported(error: str) -> bool:
    """Return whether an error says that the collector has nothing that takes a signal."""
    return error.startswith(_UNSUPPORTED_ERRORS)


TAKEN = Answer(Verdict.TAKEN)

# https://opentelemetry.io/docs/specs/otlp/#failures: the retryable codes. UNAUTHENTICATED
# and PERMISSION_DENIED are ours.
_LATER_CODES = frozenset(
    {
        "ABORTED",
        "CANCELLED",
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNAVAILABLE",
    }
)
_UNREACHABLE_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})

# Texts of gRPC (both sides) and of Go's, Java's and Rust's servers (which say
# OUT_OF_RANGE) on a message over the limit.
_TOO_LARGE_TEXTS = ("larger than max", "message length too large", "exceeds maximum")

# https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes. 401 and 403 are
# ours, and so is 408, which no server means for good.
_LATER_STATUSES = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


def grpc_answer(code: str, details: str, retry_seconds: float | None) -> Answer:
    """Return what a gRPC status means.

    Args:
        code: Name of the status code.
        details: Its text.
        retry_seconds: Of ``google.rpc.RetryInfo``; None without it.
    """
    error = f"{code}: {details}" if details else code
    is_too_large = any(text in details for text in _TOO_LARGE_TEXTS)
    if is_too_large and code in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE"):
        return Answer(Verdict.TOO_LARGE, error)
    if code == "RESOURCE_EXHAUSTED":
        # Without RetryInfo the protocol says: not again. But a full collector and an
        # exhausted quota recover, and servers forget to add it.
        return Answer(Verdict.LATER, error, retry_seconds or 0.0)
    if code in _LATER_CODES:
        return Answer(
            Verdict.LATER,
            error,
            retry_seconds or 0.0,
            is_unreachable=code in _UNREACHABLE_CODES,
        )
    return Answer(Verdict.REFUSED, error)


def http_answer(status: int, reason: str, retry_after: str) -> Answer:
    """Return what an HTTP status means that is not a success.

    Args:
        status: The status code.
        reason: Its text.
        retry_after: The Retry-After header; empty without it.
    """
    error = f"code: {status}, reason: {reason}" if reason else f"code: {status}"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Answer(Verdict.TOO_LARGE, error)
    if status in _LATER_STATUSES:
        return Answer(Verdict.LATER, error, _seconds(retry_after))
    return Answer(Verdict.REFUSED, error)


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header; a date, which is rare, is ignored."""
    text = retry_after.strip()
    return float(text) if text.isdecimal() else 0.0


def taken_in_part(rejected: int, message: str) -> Answer:
    """Return what a success with a ``partial_success`` means.

    The protocol: what was rejected must not be sent again, and a message without
    rejected items is a warning.
    """
    if rejected <= 0:
        return TAKEN
    return Answer(
        Verdict.TAKEN, f"the collector has rejected some: {message}", rejected=rejected
    )
