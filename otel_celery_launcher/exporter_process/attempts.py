# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Sends a batch until the fate of each of its items is decided.

Poison or outage: a collector that refuses a batch may refuse one item of it, or
everything. What decides is what else it takes, not the code of its answer. A refused
batch is halved until an item is alone. Such an item is dropped as poisoned only

* if the collector has refused it alone, has taken something else, and has then refused
  it alone again; or
* if all others of its batch were taken, and it alone was refused three times.

As long as nothing is taken it is an outage: all items are kept and sent again after a
pause. To see whether it is one, messages behind the batch are tried as well.

Runs in the sender's thread of the exporter process.
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.delivery.answers import Answer, Verdict
from otel_celery_launcher.delivery.export_log import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.delivery.exporters import PreparedExporter

# Pauses between attempts that failed, in seconds; each is varied by a fifth, so that
# the workers of a fleet do not come back together.
RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
JITTER = 0.2

# A collector may ask for a longer pause, but not for ever.
WAIT_SECONDS_AT_MOST = 300.0

# After this time without success the exporter is rebuilt: certificates, DNS.
REBUILD_SECONDS = 60.0

# Refusals in a row, with nothing taken between, that are taken for an outage: a batch
# of 512 is halved to its first item in ten, and its second item is the eleventh. Once
# it is an outage, three attempts show that it still is one.
PATIENCE, PATIENCE_IN_OUTAGE = 12, 3

# After each five answers of "later" the batch is divided: a server may fail at one
# item with such an answer, or be too slow for the whole.
LATERS = 5

# How many items a stuck batch may have after others were added to it.
STUCK_ITEMS = 2048

# How many times the last item of a batch is refused before it is dropped.
LAST_REFUSALS = 3


class Delivery(NamedTuple):
    """What the sender of a pipeline calls.

    Attributes:
        note_error: Called with what an attempt has failed with.
        count_taken: Called with how many items the collector has taken.
        count_refused: Called with how many items it has refused for good.
        more: Returns items of further messages; empty if there are none.
        pause: Called with seconds and whether it is the first attempt of a batch; waits,
            and returns False if the process ends.
    """

    note_error: Callable[[str], object]
    count_taken: Callable[[int], object]
    count_refused: Callable[[int], object]
    more: Callable[[], list[Any]]
    pause: Callable[[float, bool], bool]


class _Undecided:
    """What is left of a batch.

    Args:
        items: The batch.
    """

    def __init__(self, items: list[Any]) -> None:
        self.work = deque([items] if items else [])
        self.suspects: deque[Any] = deque()  # refused alone
        # By identity of an item, which the batch keeps alive: how many attempts had
        # succeeded when it was refused alone for the first time, and how often it was.
        self.refused: dict[int, list[int]] = {}
        self.taken_before: int | None = None  # the first refusal

    def __bool__(self) -> bool:
        return bool(self.work or self.suspects)

    def halve(self, piece: list[Any]) -> None:
        """Divide a piece, which is sent next."""
        self.work.extendleft(reversed(_halves(piece)))

    def forget_evidence(self, taken: int) -> None:
        """Begin again: what was taken before an outage says nothing of it after that."""
        for record in self.refused.values():
            record[0] = taken

    def in_another_way(self, more: list[Any]) -> None:
        """Divide all of it anew: the newest item, then any, then halves, at random.

        An item alone is taken more likely than a piece, and one that is taken says that
        this is no outage.
        """
        items = [item for piece in self.work for item in piece]
        items += self.suspects
        self.suspects.clear()
        random.shuffle(items)
        items += more
        alone = [[items.pop()] for _ in items[-PATIENCE_IN_OUTAGE:]]
        self.work = deque(piece for piece in (*alone, *_halves(items)) if piece)


class Attempts:
    """Sends batches through one exporter.

    Args:
        make_exporter: Makes the exporter; called in the sender's thread.
        delivery: What to call.
    """

    def __init__(
        self, make_exporter: Callable[[], PreparedExporter], delivery: Delivery
    ) -> None:
        self._make_exporter = make_exporter
        self._delivery = delivery
        self._exporter: PreparedExporter | None = None
        self._built = 0.0
        self._taken = 0  # how many attempts have succeeded
        self._pauses = 0  # since the last success

    def deliver(self, items: list[Any]) -> bool:
        """Send a batch; return False if the process ends before all is decided."""
        left = _Undecided(items)
        refusals, patience, laters = 0, PATIENCE, 0
        while left:
            if not left.work:
                left.work.append(self._more_or_suspect(left))
            piece = left.work.popleft()
            answer = self._send(piece)
            if answer.verdict is Verdict.TAKEN:
                refusals, patience, laters = 0, PATIENCE, 0
            elif answer.verdict is Verdict.TOO_LARGE:
                self._halve_or_drop(left, piece)
            elif answer.verdict is Verdict.LATER:
                left.work.appendleft(piece)
                laters += 1
                if not self._pause(answer):
                    return False
                if laters % LATERS == 0:  # one of them may be what is in the way
                    left.in_another_way(self._more(left))
            else:
                refusals = 0 if self._is_dropped(left, piece) else refusals + 1
                if left and (refusals >= patience or self._is_stuck(left)):
                    refusals, patience = 0, PATIENCE_IN_OUTAGE
                    if not self._pause(answer):
                        return False
                    left.forget_evidence(self._taken)
                    left.in_another_way(self._more(left))
        return True

    def _is_dropped(self, left: _Undecided, piece: list[Any]) -> bool:
        """Decide on what was refused: halve it, suspect it, or drop it."""
        if left.taken_before is None:
            left.taken_before = self._taken
        if len(piece) > 1:
            left.halve(piece)
            return False
        (item,) = piece
        record = left.refused.setdefault(id(item), [self._taken, 0])
        record[1] += 1
        is_poison = self._taken > record[0] or (
            not left and self._taken > left.taken_before and record[1] >= LAST_REFUSALS
        )
        if is_poison:
            self._delivery.count_refused(1)
        else:
            left.suspects.append(item)
        return is_poison

    def _is_stuck(self, left: _Undecided) -> bool:
        """Return whether only suspects are left, and nothing was taken since."""
        return (
            not left.work
            and bool(left.suspects)
            and left.refused[id(left.suspects[0])][0] == self._taken
        )

    def _more_or_suspect(self, left: _Undecided) -> list[Any]:
        """Return what may show that the collector takes something; else a suspect."""
        more = self._more(left) if self._is_stuck(left) else []
        return more or [left.suspects.popleft()]

    def _more(self, left: _Undecided) -> list[Any]:
        waiting = sum(map(len, left.work)) + len(left.suspects)
        return self._delivery.more() if waiting < STUCK_ITEMS else []

    def _halve_or_drop(self, left: _Undecided, piece: list[Any]) -> None:
        """Halve what is too large; an item alone can never be sent."""
        if len(piece) > 1:
            left.halve(piece)
        else:
            self._delivery.count_refused(1)

    def _send(self, items: list[Any]) -> Answer:
        exporter = self._built_exporter()
        if exporter is None:
            return Answer(Verdict.LATER)
        answer = exporter.send(items)
        if answer.error:
            self._delivery.note_error(answer.error)
        if answer.verdict is Verdict.TAKEN:
            self._taken += 1
            self._pauses = 0
            self._built = time.monotonic()
            rejected = min(answer.rejected, len(items))
            self._delivery.count_taken(len(items) - rejected)
            if rejected:
                self._delivery.count_refused(rejected)
        elif answer.is_unreachable:
            self._discard_exporter()
        return answer

    def _built_exporter(self) -> PreparedExporter | None:
        """Return the exporter, made anew where that may help; None if it cannot be made."""
        if time.monotonic() - self._built > REBUILD_SECONDS and self._pauses:
            self._discard_exporter()
        if self._exporter is None:
            try:
                self._exporter = self._make_exporter()
            except Exception as exc:  # noqa: BLE001 - certificates may be unreadable
                self._delivery.note_error(error_text(exc))
            self._built = time.monotonic()
        return self._exporter

    def _discard_exporter(self) -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.close()

    def _pause(self, answer: Answer) -> bool:
        seconds = RETRY_PAUSES[min(self._pauses, len(RETRY_PAUSES) - 1)]
        seconds *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        asked = min(answer.wait_seconds, WAIT_SECONDS_AT_MOST)
        is_first = self._pauses == 0
        self._pauses += 1
        return self._delivery.pause(max(seconds, asked), is_first)


def _halves(items: list[Any]) -> list[list[Any]]:
    middle = (len(items) + 1) // 2
    return [items[:middle], items[middle:]]
