"""What is received while no exporter process reads, and never taken over, is counted."""

from __future__ import annotations

from otel_celery_launcher.ipc.channel import Channel
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.ipc.datagrams import Envelope
from otel_celery_launcher.ipc.ring_cursor import Reads
from otel_celery_launcher.ipc.ring_memory import RingMemory
from otel_celery_launcher.ipc.shared_memory import new_memory
from otel_celery_launcher.routes.keeper import RingKeeper
from otel_celery_launcher.signals import TRACES

SIZE = 4 * 1024 * 1024


def test_what_nobody_takes_over_is_lost_and_counted() -> None:
    counters, channel = Counters(), Channel.make()
    assert channel.read is not None
    memory = new_memory("kept", SIZE)
    keeper = RingKeeper(0, memory, SIZE, counters, [(TRACES, "otlp_proto_grpc")])
    envelope = Envelope(TRACES.number, b"resource")
    for _ in range(3):
        assert channel.send(envelope.message([b"one", b"two"]))
    keeper.take(channel.read)
    assert counters.has_kept[0]
    assert counters.of(TRACES).dropped == 0
    keeper.drop()
    assert counters.of(TRACES).dropped == 6
    assert not counters.has_kept[0]


def test_what_was_taken_over_is_not_counted_again() -> None:
    counters, channel = Counters(), Channel.make()
    assert channel.read is not None
    memory = new_memory("kept", SIZE)
    keeper = RingKeeper(0, memory, SIZE, counters, [(TRACES, "otlp_proto_grpc")])
    assert channel.send(Envelope(TRACES.number, b"resource").message([b"one"]))
    keeper.take(channel.read)
    keeper.release()
    successor = RingMemory(memory, SIZE)
    figures = counters.rows[1].of(TRACES)
    ring = successor.ring([Reads(TRACES.number, "otlp_proto_grpc", figures)])
    (cursor,) = ring.cursors
    cursor.take(10, 1000)
    cursor.free(cursor.position, 1)
    keeper.drop()
    assert counters.of(TRACES).dropped == 0
