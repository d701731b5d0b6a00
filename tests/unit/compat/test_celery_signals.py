"""Signals with one receiver: sent as Celery sends them, and Celery's names that are used."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.app import trace
from celery.utils.dispatch import Signal

from otel_celery_launcher.compat import celery_signals


class Receiver:
    """Receives a signal, and raises what it is told to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.raised: BaseException | None = None
        self.call = self._call  # one object, as it is connected

    def _call(self, **named: Any) -> str:
        self.received.append(named)
        if self.raised is not None:
            raise self.raised
        return "answer"


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def sent(signal: Signal, sender: object, **named: Any) -> list[tuple[Any, Any]]:
    return [
        (receiver, repr(answer)) for receiver, answer in signal.send(sender, **named)
    ]


@pytest.mark.parametrize("raised", [None, ValueError("no"), OSError(5, "no")])
def test_one_receiver_gets_and_gives_the_same(
    receiver: Receiver, raised: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    signal = Signal(name="a")
    signal.connect(receiver.call, weak=False)
    receiver.raised = raised
    answers, lines = [], []
    for is_quick in (False, True):
        if is_quick:
            celery_signals.send_quickly(signal, receiver.call)
        assert ("send" in vars(signal)) is is_quick
        with caplog.at_level(logging.ERROR):
            answers.append(sent(signal, "sender", task=1))
        lines.append([(each.name, each.getMessage()) for each in caplog.records])
        caplog.clear()
    assert answers[0] == answers[1]
    assert lines[0] == lines[1]
    assert len(lines[0]) == (raised is not None)
    assert receiver.received[0] == receiver.received[1]


def test_what_ends_a_process_comes_through(receiver: Receiver) -> None:
    signal = Signal(name="a")
    signal.connect(receiver.call, weak=False)
    celery_signals.send_quickly(signal, receiver.call)
    receiver.raised = SystemExit(3)
    with pytest.raises(SystemExit):
        signal.send("sender")


def test_others_receive_it_too(receiver: Receiver) -> None:
    signal = Signal(name="a")
    signal.connect(receiver.call, weak=False)
    celery_signals.send_quickly(signal, receiver.call)
    other = Receiver()
    signal.connect(other.call, sender="mine", weak=False)
    assert sent(signal, "mine") == [
        (receiver.call, "'answer'"),
        (other.call, "'answer'"),
    ]
    assert sent(signal, "another") == [(receiver.call, "'answer'")]
    signal.disconnect(receiver.call)
    assert sent(signal, "mine") == [(other.call, "'answer'")]
    signal.disconnect(other.call, sender="mine")
    assert sent(signal, "mine") == []


def test_an_applications_own_send_stays(receiver: Receiver) -> None:
    signal = Signal(name="a")
    signal.connect(receiver.call, weak=False)
    signal.send = own = lambda sender, **named: [(sender, named)]
    undo = celery_signals.send_quickly(signal, receiver.call)
    assert signal.send is own
    undo()
    assert signal.send is own


def test_a_send_of_the_class_that_an_application_replaces_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = Signal(name="a")
    signal.connect(receiver.call, weak=False)
    celery_signals.send_quickly(signal, receiver.call)
    monkeypatch.setattr(Signal, "send", lambda *_, **named: [("theirs", named)])
    assert signal.send("sender", task=1) == [("theirs", {"task": 1})]
    monkeypatch.undo()
    assert sent(signal, "sender") == [(receiver.call, "'answer'")]


def test_it_can_be_undone(receiver: Receiver) -> None:
    signal = Signal(name="a")
    before = signal.send
    signal.connect(receiver.call, weak=False)
    celery_signals.send_quickly(signal, receiver.call)()
    assert signal.send == before
    assert "send" not in vars(signal)


def test_celery_has_copies_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made when ``celery.app.trace`` is imported: what a task's run sends."""
    for name, copy in celery_signals._COPIES.items():
        signal = getattr(signals, name)
        assert signal.name == name
        plain = SimpleNamespace(send=Signal.send.__get__(signal))
        monkeypatch.setattr(trace, copy, plain.send)
        monkeypatch.delitem(vars(signal), "send", raising=False)
        undo = celery_signals.send_quickly(signal, lambda **_: None)
        assert getattr(trace, copy) is signal.send
        undo()
        assert getattr(trace, copy) == plain.send


LATER = """
from celery import Celery, signals
from otel_celery_launcher.settings.tasks import TaskSettings
from otel_celery_launcher.tasks.instrumentor import instrument_celery
instrument_celery(TaskSettings(), None, None)
from celery.app import trace
print(trace.send_prerun is signals.task_prerun.send, "send" in vars(signals.task_prerun))
"""


def test_celery_copies_what_is_there_before_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATER], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]
