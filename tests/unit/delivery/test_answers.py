"""What answers mean: the table of the OTLP specification, and our two additions."""

from __future__ import annotations

import pytest

from otel_celery_launcher.delivery.answers import (
    TAKEN,
    Verdict,
    grpc_answer,
    http_answer,
    taken_in_part,
)

LATER, REFUSED, TOO_LARGE = Verdict.LATER, Verdict.REFUSED, Verdict.TOO_LARGE


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("CANCELLED", LATER),
        ("DEADLINE_EXCEEDED", LATER),
        ("ABORTED", LATER),
        ("OUT_OF_RANGE", LATER),
        ("UNAVAILABLE", LATER),
        ("DATA_LOSS", LATER),
        ("RESOURCE_EXHAUSTED", LATER),
        ("UNAUTHENTICATED", LATER),  # ours: keys rotate
        ("PERMISSION_DENIED", LATER),  # ours: permissions do
        ("UNKNOWN", REFUSED),
        ("INTERNAL", REFUSED),
        ("INVALID_ARGUMENT", REFUSED),
        ("NOT_FOUND", REFUSED),
        ("ALREADY_EXISTS", REFUSED),
        ("FAILED_PRECONDITION", REFUSED),
        ("UNIMPLEMENTED", REFUSED),
    ],
)
def test_grpc_codes(code: str, verdict: Verdict) -> None:
    answer = grpc_answer(code, "why", None)
    assert answer.verdict is verdict
    assert answer.error == f"{code}: why"


@pytest.mark.parametrize(
    "text",
    [
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "CLIENT: Sent message larger than max (9 vs. 4)",
        "gRPC message exceeds maximum size 4194304: 5000000",
    ],
)
def test_a_batch_that_is_too_large_is_known_by_its_text(text: str) -> None:
    assert grpc_answer("RESOURCE_EXHAUSTED", text, None).verdict is TOO_LARGE
    assert grpc_answer("OUT_OF_RANGE", text, None).verdict is TOO_LARGE  # Rust's


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (429, LATER),
        (502, LATER),
        (503, LATER),
        (504, LATER),
        (401, LATER),  # ours
        (403, LATER),  # ours
        (413, TOO_LARGE),
        (400, REFUSED),
        (404, REFUSED),
        (422, REFUSED),
        (500, REFUSED),
    ],
)
def test_http_statuses(status: int, verdict: Verdict) -> None:
    assert http_answer(status, "why", "").verdict is verdict


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("nan", 0.0)],
)
def test_retry_after(header: str, seconds: float) -> None:
    assert http_answer(503, "", header).wait_seconds == seconds


def test_a_success_in_part_is_not_sent_again() -> None:
    answer = taken_in_part(3, "too old")
    assert (answer.verdict, answer.rejected) == (Verdict.TAKEN, 3)
    assert "too old" in answer.error
    assert taken_in_part(0, "a warning") is TAKEN
