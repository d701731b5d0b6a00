"""What the worker's log says of delivery, with a clock of our own."""

from __future__ import annotations

import logging

import pytest

from otel_celery_launcher.ipc.counter_rows import POOL_ROWS
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.process_claim import ProcessClaim
from otel_celery_launcher.routes.delivery_log import DeliveryLog
from otel_celery_launcher.signals import TRACES


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_minute_and_one_at_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """README: one line a minute at most, one at recovery."""
    counters, clock = Counters(), Clock()
    delivery_log = DeliveryLog(
        TRACES, counters, ProcessClaim(), "http://c:4317", clock=clock
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(600):  # ten minutes of failures
            counters.rows[POOL_ROWS[0]].note_error("refused")
            counters.rows[POOL_ROWS[0]].of(TRACES).add_failed(1)
            delivery_log.poll()
            clock.now += 1
        counters.rows[POOL_ROWS[0]].of(TRACES).add_exported(1)
        for _ in range(100):
            delivery_log.poll()
            clock.now += 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 11
    assert lines[0] == (
        "otel-celery: spans do not reach http://c:4317: refused. 1 lost so far; tasks"
        " are not affected. Check that the collector runs; check the port: collectors"
        " take gRPC on 4317 and HTTP on 4318, and OTEL_EXPORTER_OTLP_PROTOCOL says which"
        " of them you send."
    )
    assert lines[-1] == ("otel-celery: spans reach http://c:4317 again; 600 were lost.")


def test_loss_without_failure_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    delivery_log = DeliveryLog(TRACES, counters, ProcessClaim(), "", clock=Clock())
    counters.rows[0].of(TRACES).add_dropped(7)
    delivery_log.poll()
    delivery_log.poll()
    (record,) = caplog.records
    assert record.getMessage().startswith("otel-celery: 7 spans lost so far")


def test_lines_survive_a_dictconfig_that_disables_loggers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("otel_celery_launcher")
    logger.disabled = True
    counters = Counters()
    counters.rows[0].of(TRACES).add_dropped(1)
    DeliveryLog(TRACES, counters, ProcessClaim(), "", clock=Clock()).poll()
    assert len(caplog.records) == 1


def test_only_the_main_process_writes(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    main = ProcessClaim()
    delivery_log = DeliveryLog(TRACES, counters, main, "", clock=Clock())
    main.release()
    counters.rows[0].of(TRACES).add_dropped(1)
    delivery_log.poll()
    assert not caplog.records
    main.claim()
    delivery_log.poll()
    assert len(caplog.records) == 1
