"""The page: a row has one writer, and belongs to whoever lives."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from otel_celery_launcher.metrics.layout import Description, Kind, key_of
from otel_celery_launcher.metrics.page import (
    DAMAGED,
    FULL,
    MEASUREMENTS,
    SEGMENTS,
    DamagedPageError,
    MetricPage,
    segment_range,
)
from otel_celery_launcher.metrics.reader import PageReader
from otel_celery_launcher.metrics.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COUNTER = Description(Kind.COUNTER, "c")


def in_child(act: Callable[[], object]) -> int:
    """Run something in a forked process; return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return pid


def value_of(page: MetricPage, description: Description = COUNTER) -> float:
    totals = PageReader(page, 60).read(time.time_ns())
    return sum(total.value for total in totals.get(description, {}).values())


def add(writer: Writer, count: int) -> None:
    for _ in range(count):
        cells, _ = writer.cells(COUNTER, ())
        with writer.lock:
            writer.page.values[cells] += 1


def test_rows_of_living_processes_differ_and_of_dead_ones_are_used_again() -> None:
    page = MetricPage()
    first = page.claim(MEASUREMENTS)
    read, write = os.pipe()

    def claims() -> None:
        claimed = page.claim(MEASUREMENTS)
        os.write(write, f"{claimed}\n".encode())

    assert first == (0, False)
    for expected in (b"(1, False)\n", b"(1, True)\n"):
        os.waitpid(in_child(claims), 0)
        assert os.read(read, 100) == expected
    assert page.is_living(0)
    assert not page.is_living(1)


def test_two_writers_of_a_row_cannot_be() -> None:
    """Processes that come, are killed, and come again: no addition is lost."""
    page = MetricPage()
    writer = Writer(page)
    chance = random.Random(7)
    pids: list[int] = []
    for round_ in range(12):
        pids += [in_child(lambda: add(writer, 3000)) for _ in range(4)]
        if round_ % 3 == 0:
            victim = in_child(lambda: time.sleep(60))
            time.sleep(chance.uniform(0, 0.01))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
    for pid in pids:
        os.waitpid(pid, 0)
    assert value_of(page) == 12 * 4 * 3000


def test_a_process_without_its_lock_keeps_its_row() -> None:
    """Any close of the page's file ends the lock: the head of the row still names it."""
    page = MetricPage()
    writer = Writer(page)
    add(writer, 1)
    os.close(os.dup(page.descriptor))
    pid = in_child(lambda: add(writer, 1))
    os.waitpid(pid, 0)
    assert len(page.rows(MEASUREMENTS)) == 2
    assert value_of(page) == 2


FORKS_IN_C = """
import ctypes, os, sys
from otel_celery_launcher.metrics.layout import Description, Kind
from otel_celery_launcher.metrics.page import MetricPage
from otel_celery_launcher.metrics.writer import Writer
from otel_celery_launcher.metrics.reader import PageReader

page = MetricPage()
writer = Writer(page)
counter = Description(Kind.COUNTER, "c")

def add():
    cells, _ = writer.cells(counter, ())
    page.values[cells] += 1

add()
for _ in range(5):
    pid = ctypes.CDLL(None).fork()  # no hook of Python's runs
    if pid == 0:
        add()
        add()
        os._exit(0)
    os.waitpid(pid, 0)
add()
(total,) = PageReader(page, 60).read(1)[counter].values()
print(len(page.rows(1)), total.value)
"""


def test_a_fork_in_c_is_a_new_process() -> None:
    """As uWSGI forks."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS_IN_C], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "12.0"]


def test_a_closed_page_is_not_claimed() -> None:
    page = MetricPage()
    os.close(page.descriptor)
    assert page.claim(MEASUREMENTS) is None
    writer = Writer(page)
    add(writer, 3)  # into the void
    assert page.descriptors() == []


def test_a_full_page_counts_what_finds_no_room() -> None:
    page = MetricPage()
    writer = Writer(page)
    add(writer, 1)
    last = page.segments(writer.row)[-1]
    while (segment := page.add_segment(writer.row, last)) > FULL:
        last = segment
    full = Writer(page)
    cells, is_final = full.cells(Description(Kind.COUNTER, "other"), ())
    page.values[cells] += 1
    assert is_final
    assert page.lost
    assert value_of(page) == 1


@pytest.mark.parametrize("damage", ["length", "chain", "key", "text"])
def test_a_damaged_row_harms_nothing_but_itself(damage: str) -> None:
    page = MetricPage()
    good = Writer(page)
    add(good, 2)
    bad = Writer(page)
    bad_row = in_child(lambda: add(bad, 5))
    os.waitpid(bad_row, 0)
    (row,) = set(page.rows(MEASUREMENTS)) - {good.row}
    (series,) = page.series(row)
    position, _ = segment_range(page.segments(row)[0])
    if damage == "length":
        page.bytes[position : position + 4] = b"\xff\xff\xff\x7f"
    elif damage == "chain":
        page.words[position // 8 - 1] = SEGMENTS + 5
    elif damage == "key":
        page.bytes[position + 16 : position + 20] = b"zzzz"
    else:
        start = position + page.bytes[position:].tobytes().find(series.key)
        page.bytes[start + 8 : start + 12] = b"\xff" * 4
    reader = PageReader(page, 60)
    totals = reader.read(time.time_ns())
    found = totals[COUNTER][key_of(COUNTER, ())].value
    assert (found, reader.damaged) in ((2, 1), (7, 0))
    # The next process takes another row where this one cannot be read.
    pid = in_child(lambda: add(Writer(page), 1))
    os.waitpid(pid, 0)
    assert value_of(page) in (3, 8)
    used = page.words[(position - 8) // 8]
    assert used >= 0
    assert len(page.rows(MEASUREMENTS)) + len(page.rows(DAMAGED)) >= 2


def test_another_version_is_refused() -> None:
    page = MetricPage()
    page.words[0] = 99
    with pytest.raises(DamagedPageError):
        MetricPage(page.descriptor)


def test_queues_notice_and_resource_are_read_as_written() -> None:
    page = MetricPage()
    assert (page.queues, page.notice, page.resource) == ([], "", b"")
    page.set_queues(["celery", "später"])
    page.note_notice("a sentence" + "!" * 2000)
    page.set_resource(b"resource")
    other = MetricPage(page.descriptor)
    assert other.queues == ["celery", "später"]
    assert other.notice.startswith("a sentence!")
    assert other.resource == b"resource"


def test_keys_are_the_same_bytes_everywhere_and_tell_types_apart() -> None:
    keys = {
        key_of(COUNTER, (("a", value),)) for value in (True, 1, 1.0, "1", "True", (1,))
    }
    assert len(keys) == 6
    assert key_of(COUNTER, (("a", "b" * 3),)) == key_of(COUNTER, (("a", "bbb"),))


class InterruptedHereError(Exception):
    """A soft time limit."""


def interrupt_after(calls: int) -> None:
    """Raise at the n-th line that is run in the page or in the writer."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        if "/metrics/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == calls:
                sys.settrace(None)
                raise InterruptedHereError
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize("lengths", [(400, 10), (10, 400)], ids=["long", "short"])
def test_a_soft_limit_at_each_line_leaves_a_row_that_can_be_read(
    lengths: tuple[int, int],
) -> None:
    """While a series is made; then another one of another length is."""
    first, second = lengths
    for calls in range(1, 200):
        page = MetricPage()
        writer = Writer(page)
        add(writer, 3)
        interrupt_after(calls)
        try:
            writer.cells(Description(Kind.COUNTER, "n" * first), ())
        except InterruptedHereError:
            pass
        finally:
            sys.settrace(None)
        cells, _ = writer.cells(Description(Kind.COUNTER, "m" * second), ())
        page.values[cells] += 5
        for name in ("n" * first, "o" * second):
            cells, _ = writer.cells(Description(Kind.COUNTER, name), ())
            page.values[cells] += 7
        reader = PageReader(page, 60)
        totals = reader.read(time.time_ns())
        assert reader.damaged == 0
        found = {
            each.name: sum(t.value for t in totals[each].values()) for each in totals
        }
        assert found == {"c": 3, "m" * second: 5, "n" * first: 7, "o" * second: 7}
        os.waitpid(in_child(partial(add, writer, 1)), 0)
        assert value_of(page) == 4


@pytest.mark.filterwarnings(
    "ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_soft_limit_while_a_row_is_claimed_leaves_it_to_others() -> None:
    page = MetricPage()
    up_down = Description(Kind.UP_DOWN, "u")
    writer = Writer(page)

    def go_up() -> None:
        cells, _ = writer.cells(up_down, ())
        page.values[cells] += 7

    os.waitpid(in_child(go_up), 0)
    for calls in range(1, 300, 7):
        interrupt_after(calls)
        try:
            writer.prepare()
        except InterruptedHereError:
            pass
        finally:
            sys.settrace(None)
        add(writer, 1)
        assert value_of(page, up_down) == 0
        writer.release()


def test_an_observed_counter_is_taken_over_once_however_that_is_cut_short() -> None:
    page = MetricPage()
    observed = Description(Kind.OBSERVED_COUNTER, "o")
    writer = Writer(page)

    def observe() -> None:
        cells, _ = writer.cells(observed, ())
        page.values[cells + 1] = 1000.0

    os.waitpid(in_child(observe), 0)

    def take_over(calls: int) -> None:
        interrupt_after(calls)
        writer.prepare()

    for calls in range(1, 200):
        os.waitpid(in_child(partial(take_over, calls)), 0)
        assert value_of(page, observed) == 1000


def test_a_closed_number_that_is_another_file_is_not_locked(tmp_path: Path) -> None:
    page = MetricPage()
    writer = Writer(page)
    add(writer, 1)
    other = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.dup2(other, page.descriptor)
    os.close(other)
    fcntl.lockf(page.descriptor, fcntl.LOCK_EX)
    page.is_living(writer.row)
    page.add_segment(writer.row, 1)
    page.release(writer.row)
    code = (
        "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'),"
        " fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "lock"],
        capture_output=True,
        check=False,
    )
    assert b"BlockingIOError" in done.stderr
