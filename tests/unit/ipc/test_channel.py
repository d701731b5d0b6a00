"""A channel that never touches a file of somebody else."""

from __future__ import annotations

import os
import socket

import pytest

from otel_celery_launcher.ipc.channel import Channel, ChannelLostError


def test_messages_arrive_whole_and_in_order() -> None:
    channel = Channel.make()
    assert channel.read is not None
    sent = [bytes([n]) * (n + 1) for n in range(50)]
    assert all(channel.send(message) for message in sent)
    reader = socket.socket(fileno=os.dup(channel.read))
    assert [reader.recv(1000) for _ in sent] == sent
    reader.close()
    channel.close()


def test_a_full_buffer_is_told_and_takes_again() -> None:
    channel = Channel.make()
    assert channel.read is not None
    count = 0
    while channel.send(b"x" * 500):
        count += 1
    assert count > 50
    reader = socket.socket(fileno=os.dup(channel.read))
    for _ in range(count):
        reader.recv(1000)
    assert channel.send(b"x")
    reader.close()
    channel.close()


def test_a_number_that_is_no_longer_ours_is_neither_written_nor_closed() -> None:
    """Decoy: something closes our descriptor, and its number becomes a stranger's."""
    channel = Channel.make()
    decoy_read, decoy_write = os.pipe()
    os.dup2(decoy_write, channel.write)
    for _ in range(3):
        with pytest.raises(ChannelLostError):
            channel.send(b"span")
    assert channel.descriptors() == []
    channel.close()
    os.fstat(channel.write)  # the stranger's descriptor is still open
    os.close(channel.write)
    os.close(decoy_write)
    assert os.read(decoy_read, 100) == b""
    os.close(decoy_read)
    with pytest.raises(ChannelLostError):
        channel.send(b"span")
