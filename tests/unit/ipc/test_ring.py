"""The ring: what is in it outlives the process that wrote it, whenever that is killed."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from otel_celery_launcher.ipc.datagrams import (
    LENGTH,
    Envelope,
    FrameError,
    flush_message,
    split_frames,
)
from otel_celery_launcher.ipc.ring import Ring
from otel_celery_launcher.ipc.ring_cursor import Reads, Taken
from otel_celery_launcher.ipc.ring_head import RingError

ROOT = Path(__file__).parent.parent.parent.parent

SIGNAL = 1
MEMORY = 64 * 1024
SLACK = 4 * 1024  # some twelve of the largest messages fit


class Figures:
    """Counts, in memory that outlives a fork."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def add_received(self, count: int) -> None:
        self._words[0] += count

    def add_dropped(self, count: int) -> None:
        self._words[1] += count

    received = property(lambda self: self._words[0])
    dropped = property(lambda self: self._words[1])


class Bench:
    """A ring in memory of its own, and what is needed to write and read it."""

    def __init__(self, *names: str, size: int = MEMORY, slack: int = SLACK) -> None:
        self.memory = mmap.mmap(-1, size)
        self.slack = slack
        self.names = names or ("otlp",)
        self.figures = {name: Figures() for name in self.names}
        self.envelope = Envelope(SIGNAL, b"a resource")
        self.returned: list[tuple[int, int]] = []

    def open(self, *names: str) -> Ring:
        return Ring(
            self.memory,
            [
                Reads(SIGNAL, name, self.figures.setdefault(name, Figures()))
                for name in names or self.names
            ],
            slack=self.slack,
            give_back=self._give_back,
        )

    def _give_back(self, start: int, length: int) -> None:
        self.returned.append((start, length))
        self.memory.madvise(mmap.MADV_REMOVE, start, length)

    def message(self, number: int, size: int = 1000) -> bytes:
        text = str(number).encode()
        return self.envelope.message([text + b"." * (size - len(text))])


def numbers(taken: list[Taken]) -> list[int]:
    frames = [frame for *_, body in taken for frame in split_frames(body)]
    return [int(frame.rstrip(b".")) for frame in frames]


def take_all(ring: Ring, index: int = 0, *, frees: bool = True) -> list[int]:
    cursor = ring.cursors[index]
    with ring.lock:
        found = numbers(cursor.take(10**6, 10**9))
        if frees:
            cursor.free(cursor.position, len(found))
    return found


def test_messages_come_out_in_order_over_many_laps() -> None:
    bench = Bench()
    ring = bench.open()
    for number in range(0, 600, 3):
        for each in range(number, number + 3):
            ring.append(bench.message(each, 100 + each))
        assert take_all(ring) == [number, number + 1, number + 2]
    assert ring.cursors[0].queued == 0
    assert bench.figures["otlp"].received == 600
    assert bench.figures["otlp"].dropped == 0


def test_a_successor_finds_what_was_not_freed() -> None:
    bench = Bench()
    ring = bench.open()
    for number in range(10):
        ring.append(bench.message(number))
    cursor = ring.cursors[0]
    with ring.lock:
        assert numbers(cursor.take(3, 10**9)) == [0, 1, 2]
        cursor.free(cursor.position, 3)
        assert numbers(cursor.take(2, 10**9)) == [3, 4]  # being sent when it is killed
    successor = bench.open()
    cursor = successor.cursors[0]
    assert (cursor.queued, cursor.waiting, cursor.repeated) == (7, 7, 2)
    assert take_all(successor) == [3, 4, 5, 6, 7, 8, 9]


def test_a_full_ring_drops_the_oldest_counted() -> None:
    bench = Bench()
    ring = bench.open()
    for number in range(300):
        ring.append(bench.message(number))
    kept = ring.cursors[0].queued
    assert 20 < kept < 60
    assert bench.figures["otlp"].dropped == 300 - kept
    assert take_all(bench.open()) == list(range(300 - kept, 300))


def test_a_message_that_is_being_sent_is_not_counted_as_dropped() -> None:
    """Its sender has a copy; the ring may need the room meanwhile."""
    bench = Bench()
    ring = bench.open()
    for number in range(10):
        ring.append(bench.message(number))
    cursor = ring.cursors[0]
    with ring.lock:
        taken = cursor.take(10, 10**9)
        position = cursor.position
    for number in range(10, 200):
        ring.append(bench.message(number))
    assert numbers(taken) == list(range(10))
    before = bench.figures["otlp"].dropped
    with ring.lock:
        cursor.free(position, 10)
    left = take_all(ring)
    assert left == list(range(200 - len(left), 200))
    assert bench.figures["otlp"].dropped == before == 200 - 10 - len(left)
    assert cursor.queued == 0


def test_an_exporter_that_is_behind_costs_the_other_nothing() -> None:
    bench = Bench("dead", "healthy")
    ring = bench.open()
    seen = []
    for number in range(300):
        ring.append(bench.message(number))
        seen += take_all(ring, 1)
    assert seen == list(range(300))
    assert bench.figures["healthy"].dropped == 0
    assert bench.figures["dead"].dropped == 300 - ring.cursors[0].queued > 200


def test_an_exporter_that_is_new_sends_what_waits_for_one_that_is_gone() -> None:
    """Its name has changed: from gRPC to HTTP, say."""
    bench = Bench("grpc", "console")
    ring = bench.open()
    for number in range(6):
        ring.append(bench.message(number))
        if number == 2:
            take_all(ring, 0)
    take_all(ring, 1)
    ring = bench.open("http", "console")
    assert take_all(ring, 0) == [3, 4, 5]
    assert take_all(ring, 1) == []


def test_an_empty_ring_begins_at_the_front_and_gives_memory_back() -> None:
    bench = Bench(size=16 * 2**20, slack=256 * 1024)
    ring = bench.open()
    for number in range(5000):
        ring.append(bench.message(number))
    pages = sum(length for _, length in bench.returned)
    assert pages == 0
    assert len(take_all(ring)) == 5000
    ring.tidy()
    assert sum(length for _, length in bench.returned) > 3 * 2**20
    head = ring.head
    ring.append(bench.message(1))
    assert head & 0xFFFFFFFF == 0
    assert take_all(bench.open()) == [1]


def test_a_ring_that_is_never_empty_gives_memory_back() -> None:
    bench = Bench(size=16 * 2**20, slack=256 * 1024)
    ring = bench.open()
    cursor = ring.cursors[0]
    for number in range(8000):
        ring.append(bench.message(number))
        if number >= 10:
            with ring.lock:
                assert numbers(cursor.take(1, 10**9)) == [number - 10]
                cursor.free(cursor.position, 1)
        ring.tidy()
    assert sum(length for _, length in bench.returned) > 5 * 2**20
    assert take_all(bench.open()) == list(range(7990, 8000))


def test_what_is_malformed_is_refused_and_leaves_nothing() -> None:
    bench = Bench()
    ring = bench.open()
    ring.append(bench.message(1))
    damaged = bytearray(bench.message(2))
    damaged[-1] ^= 1
    for data in (b"", b"oc", bytes(2000), bytes(damaged), bytes(damaged)[:-4]):
        with pytest.raises(FrameError):
            ring.append(data)
        assert take_all(bench.open(), frees=False) == [1]
    ring.append(bench.message(3))
    assert take_all(bench.open()) == [1, 3]


def test_what_waits_in_another_ring_is_moved() -> None:
    """With its resources; killed meanwhile, one message at most comes twice."""
    first, second = Bench(), Bench()
    ring = first.open()
    ring.append(first.envelope.resource_message())
    for number in range(20):
        ring.append(first.message(number))
    own = second.open()
    own.pour(first.open(), is_counted=True)
    assert own.resources.get(first.envelope.digest) == b"a resource"
    assert take_all(own) == list(range(20))
    assert take_all(first.open()) == []


def test_a_damaged_file_ends_nothing() -> None:
    bench = Bench()
    for number in range(20):
        bench.open().append(bench.message(number))
    for position in range(0, 60_000, 97):
        before = bench.memory[position]
        bench.memory[position] = (before + 1) % 256
        with suppress(RingError, IndexError, ValueError):
            bench.open()
        bench.memory[position] = before


def test_another_version_is_left_alone() -> None:
    bench = Bench()
    bench.open().append(bench.message(1))
    before = bytes(bench.memory)
    bench.memory[7] ^= 1
    with pytest.raises(RingError):
        bench.open()
    bench.memory[7] ^= 1
    assert bytes(bench.memory) == before


def test_resources_are_found_by_a_successor() -> None:
    bench = Bench()
    ring = bench.open()
    ring.append(bench.envelope.resource_message())
    ring.append(bench.message(1))
    assert bench.open().resources.get(bench.envelope.digest) == b"a resource"
    assert take_all(ring) == [1]


def test_a_resource_is_kept_as_long_as_a_message_refers_to_it() -> None:
    """Some hundred others come and go meanwhile."""
    bench = Bench()
    ring = bench.open()
    ring.append(bench.envelope.resource_message())
    ring.append(bench.message(1))
    for number in range(200):
        other = Envelope(SIGNAL, str(number).encode() * 200)
        ring.append(other.resource_message())
    assert ring.resources.get(bench.envelope.digest) == b"a resource"
    assert len(ring.resources) < 20
    assert bench.open().resources.get(bench.envelope.digest) == b"a resource"


def test_where_resources_need_the_room_the_oldest_messages_go() -> None:
    bench = Bench()
    ring = bench.open()
    for number in range(30):
        envelope = Envelope(SIGNAL, str(number).encode() * 400)
        ring.append(envelope.resource_message())
        ring.append(envelope.message([str(number).encode()]))
        assert ring.resources.get(envelope.digest)
    found = take_all(ring)
    assert found == list(range(30 - len(found), 30))
    assert 3 < len(found) < 20
    assert bench.figures["otlp"].dropped == 30 - len(found)


def test_a_resource_that_fits_nowhere_is_refused() -> None:
    bench = Bench(slack=8 * 1024)
    ring = bench.open()
    with pytest.raises(FrameError, match="too large"):
        ring.append(Envelope(SIGNAL, b"x" * 6000).resource_message())
    ring.append(bench.message(1))
    assert take_all(ring) == [1]


def test_flushes_are_messages_like_others() -> None:
    bench = Bench()
    ring = bench.open()
    ring.append(bench.message(1))
    ring.append(flush_message(SIGNAL, 3, 77))
    assert (ring.cursors[0].waiting, ring.cursors[0].flushes) == (1, 1)
    with ring.lock:
        taken = ring.cursors[0].take(10, 10**9)
    assert [count for count, *_ in taken] == [1, 0]
    assert ring.cursors[0].flushes == 0


# A process is killed at each line of the ring's code.

NEVER = 10**9
_MODULES = ("ring.py", "ring_resources.py", "datagrams.py")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed at a step; return whether it was."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.WIFSIGNALED(status)
    left = step

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(_MODULES):
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    try:
        sys.settrace(trace)
        work()
    finally:
        sys.settrace(None)
        os._exit(0)


class Worked:
    """What one process of the fuzz does: find the ring, receive, send, free."""

    def __init__(self, bench: Bench, *, sends: bool) -> None:
        self.bench = bench
        self.sends = sends
        self.read, self.write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.write.setblocking(False)
        self.collector, self._collected = os.pipe()
        self.sent = 0

    def __call__(self) -> None:
        ring = self.bench.open()
        self._receive(ring)
        if self.sends:
            cursor = ring.cursors[0]
            with ring.lock:
                taken = cursor.take(2, 10**9)
                for number in numbers(taken):
                    os.write(self._collected, LENGTH.pack(number))
                cursor.free(cursor.position, len(taken))
        ring.tidy()
        self._receive(ring)

    def _receive(self, ring: Ring) -> None:
        for _ in range(2):
            try:
                ring.receive(self.read, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def send(self) -> None:
        number = self.sent
        if number % 7 == 0:  # resources come and go, too
            self.bench.envelope = Envelope(SIGNAL, str(number).encode() * 150)
            self.write.send(self.bench.envelope.resource_message())
        self.write.send(self.bench.message(number, 1500 + number % 50))
        self.sent += 1

    def collected(self) -> list[int]:
        os.close(self._collected)
        data = b""
        while more := os.read(self.collector, 65536):
            data += more
        return [value for (value,) in LENGTH.iter_unpack(data)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("play", ["kill_at_any_step", "kill_with_a_full_ring"])
def test_killed_at_any_step_what_is_to_stay_is_there(play: str) -> None:
    """In a small process of its own: forks of a large one take their time."""
    path = f"import sys; sys.path.append({str(ROOT)!r})"
    code = f"{path}; from {__name__} import {play}; {play}()"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def kill_at_any_step() -> None:
    """Nothing is lost over more than three laps, two kills of each line of the code."""
    bench = Bench()
    worked = Worked(bench, sends=True)
    step = kills = 0
    for _ in range(2):
        step, was_killed = 0, True
        while was_killed:
            worked.send()
            was_killed = killed_at(step, worked)
            kills += was_killed
            step += 1
            assert not killed_at(NEVER, worked)
    ring = bench.open()
    laps = ring.head >> 32
    worked._receive(ring)
    left = take_all(ring)
    while True:
        try:
            ring.receive(worked.read, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        left += take_all(ring)
    delivered = worked.collected() + left
    assert kills > 300
    assert laps > 3
    assert sorted(set(delivered)) == list(range(worked.sent))
    assert len(delivered) - worked.sent <= 2 * kills  # at most what was in flight


def kill_with_a_full_ring() -> None:
    """A full ring keeps the newest."""
    bench = Bench()
    worked = Worked(bench, sends=False)
    step, was_killed = 0, True
    while was_killed:
        worked.send()
        worked.send()
        was_killed = killed_at(step, worked)
        step += 1
        assert not killed_at(NEVER, worked)
    while True:
        ring = bench.open()
        try:
            ring.receive(worked.read, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
    laps = ring.head >> 32
    left = take_all(ring)
    assert laps > 3
    assert len(left) > 10
    assert left == list(range(worked.sent - len(left), worked.sent))
