"""The counters in shared memory."""

from __future__ import annotations

import os

import pytest

from otel_celery_launcher.ipc.counters import ROWS, Counters
from otel_celery_launcher.signals import TRACES


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
