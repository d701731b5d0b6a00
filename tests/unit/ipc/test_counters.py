"""The counters in shared memory."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from otel_celery_launcher.ipc.counter_rows import ERROR_BYTES, NAME_BYTES, SIGNALS
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.signals import TRACES, Signal


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
    assert counters.error == "é" * (ERROR_BYTES // 2)
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
    row.note_queued(7)
    assert (counters.of(TRACES).queued, counters.of(TRACES).lost) == (7, 0)
    row.drop_queued()
    assert (counters.of(TRACES).queued, counters.of(TRACES).lost) == (0, 7)


def a_signal(number: int) -> Signal:
    return TRACES._replace(number=number)


def test_rows_and_signals_do_not_overlap() -> None:
    counters = Counters()
    signals = [a_signal(number) for number in range(1, SIGNALS + 1)]
    for index, row in enumerate(counters.rows):
        row.note_error("x" * 500)
        row.add_left_out("y" * 500)
        for signal in signals:
            figures = row.of(signal)
            for place, add in enumerate(
                (
                    figures.add_exported,
                    figures.add_failed,
                    figures.add_dropped,
                    figures.add_received,
                    figures.note_queued,
                    figures.note_flushed,
                )
            ):
                add(1000 * index + 10 * signal.number + place)
    for index, row in enumerate(counters.rows):
        assert row.error == "x" * ERROR_BYTES
        assert row.left_out_name == "y" * NAME_BYTES
        for signal in signals:
            figures = row.of(signal)
            first = 1000 * index + 10 * signal.number
            assert [
                figures.exported, figures.failed, figures.dropped,
                figures.received, figures.queued, figures.flushed,
            ] == list(range(first, first + 6))  # fmt: skip


@pytest.mark.parametrize("number", [0, SIGNALS + 1])
def test_a_signal_without_room_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"the number {number}"):
        Counters().rows[0].of(a_signal(number))


def test_threads_that_count_at_once_lose_nothing() -> None:
    figures = Counters().rows[0].of(TRACES)

    def count() -> None:
        for _ in range(20_000):
            figures.add_dropped(1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert figures.dropped == 160_000


def test_hopeless_is_failures_without_a_success() -> None:
    counters = Counters()
    assert counters.hopeless_for == 0
    counters.rows[0].note_error("refused")
    assert 0 < counters.hopeless_for < 5
    counters.rows[3].of(TRACES).add_exported(1)
    assert counters.hopeless_for == 0
