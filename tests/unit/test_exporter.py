"""Counters, log lines and bounded calls, with a clock of our own."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.delivery.export_log import EXPORT_LOGGER, ExportLogHandler
from otel_celery_launcher.ipc.counters import ROWS, Counters
from otel_celery_launcher.ipc.main_process import MainProcess
from otel_celery_launcher.routes.delivery_log import DeliveryLog
from otel_celery_launcher.signals import TRACES


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_counters_are_shared_with_forked_children() -> None:
    counters = Counters()
    counters.rows[1].of(TRACES).add_exported(2)
    pid = os.fork()
    if pid == 0:
        counters.rows[1].of(TRACES).add_exported(3)
        counters.rows[2].of(TRACES).add_failed(1)
        counters.rows[2].note_error("é" * 300)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (counters.of(TRACES).exported, counters.of(TRACES).lost) == (5, 1)
    assert counters.error == "é" * 100
    assert counters.hopeless_for == 0
    assert Counters(os.dup(counters.descriptor)).of(TRACES).exported == 5


def test_the_shared_page_cannot_be_cut_short() -> None:
    """A process that maps a page which somebody makes shorter dies of SIGBUS."""
    counters = Counters()
    with pytest.raises(PermissionError):
        os.ftruncate(counters.descriptor, 0)
    assert counters.of(TRACES).lost == 0


def test_what_a_killed_process_kept_is_counted_by_its_successor() -> None:
    counters = Counters()
    row = counters.rows[1].of(TRACES)
    row.queued = 7
    assert (counters.of(TRACES).queued, counters.of(TRACES).lost) == (7, 0)
    row.drop_queued()
    assert (counters.of(TRACES).queued, counters.of(TRACES).lost) == (0, 7)


def test_rows_do_not_overlap() -> None:
    counters = Counters()
    for index, row in enumerate(counters.rows):
        row.note_error("x" * 500)
        row.of(TRACES).dropped = index
    assert [row.of(TRACES).dropped for row in counters.rows] == list(range(ROWS))


def test_hopeless_is_failures_without_a_success() -> None:
    counters = Counters()
    assert counters.hopeless_for == 0
    counters.rows[0].note_error("refused")
    assert 0 < counters.hopeless_for < 5
    counters.rows[3].of(TRACES).add_exported(1)
    assert counters.hopeless_for == 0


def test_a_line_a_minute_and_one_at_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """README: one line a minute at most, one at recovery."""
    counters, clock = Counters(), Clock()
    delivery_log = DeliveryLog(
        TRACES, counters, MainProcess(), "http://c:4317", clock=clock
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(600):  # ten minutes of failures
            counters.rows[1].note_error("refused")
            counters.rows[1].of(TRACES).add_failed(1)
            delivery_log.poll()
            clock.now += 1
        counters.rows[1].of(TRACES).add_exported(1)
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
    delivery_log = DeliveryLog(TRACES, counters, MainProcess(), "", clock=Clock())
    counters.rows[0].of(TRACES).dropped += 7
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
    counters.rows[0].of(TRACES).dropped += 1
    DeliveryLog(TRACES, counters, MainProcess(), "", clock=Clock()).poll()
    assert len(caplog.records) == 1


def test_only_the_main_process_writes(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    main = MainProcess()
    delivery_log = DeliveryLog(TRACES, counters, main, "", clock=Clock())
    main.release()
    counters.rows[0].of(TRACES).dropped += 1
    delivery_log.poll()
    assert not caplog.records
    main.claim()
    delivery_log.poll()
    assert len(caplog.records) == 1


def test_exporters_log_becomes_the_last_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[str] = []
    ExportLogHandler(errors.append).install()
    logger = logging.getLogger(f"{EXPORT_LOGGER}.otlp.proto.grpc.exporter")
    logger.warning(
        "Transient error %s encountered while exporting traces to c, retrying in 1s."
        " Error details: %s",
        "StatusCode.UNAVAILABLE",
        "connection\nrefused",
    )
    logger.error("something else")
    assert errors == ["UNAVAILABLE: connection refused", "something else"]
    assert not caplog.records
    logging.getLogger(EXPORT_LOGGER).handlers.clear()
    logging.getLogger(EXPORT_LOGGER).propagate = True


def test_bounded_calls_end_in_time_and_run_side_by_side() -> None:
    never = threading.Event()
    start = time.monotonic()
    assert run_with_deadline([lambda: never.wait(0.2)] * 5, 5)
    assert time.monotonic() - start < 0.9
    start = time.monotonic()
    assert not run_with_deadline([lambda: never.wait(30)], 0.1)
    assert not run_with_deadline(
        [lambda: never.wait(30)], 30, lambda waited: waited > 0.1
    )
    assert time.monotonic() - start < 5
    never.set()


def test_what_a_bounded_call_raises_is_lost() -> None:
    assert run_with_deadline([lambda: 1 / 0], 5)
