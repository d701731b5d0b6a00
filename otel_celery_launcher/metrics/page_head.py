# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The head of the page: whose metrics these are, and what processes tell each other.

    words | state of exporters | notice | resource | names of queues

The main process writes resource and queues, the exporting one state and notice.
"""

from __future__ import annotations

import json

from otel_celery_launcher.ipc.datagrams import RESOURCE_BYTES

# Words of the page's head.
VERSION_WORD, _STARTED, NEXT_SEGMENT, _RESOURCE_LENGTH, _NOTICE_LENGTH = range(5)
_QUEUES_LENGTH = 5
VERSION = 1

# Words with the state of each exporter, for its successor: from here, and how many.
_STATES, _STATE_WORDS, EXPORTERS = 64, 4, 32

# Words of such a state: when the collector said that it takes no metrics (monotonic
# nanoseconds), how many exports in a row have failed, whether any was ever taken, whether
# the log says that they fail.
UNSUPPORTED, FAILURES, REACHED, SAID = range(4)

# A sentence for the worker's log: where it lies, and its bytes.
_NOTICE_START, NOTICE_BYTES = 2048, 1024

_RESOURCE_START = 4096
_QUEUES_START = _RESOURCE_START + RESOURCE_BYTES + 4096
QUEUES_BYTES = 16 * 1024

# Where what follows the head begins.
HEAD_BYTES = _QUEUES_START + QUEUES_BYTES


class PageHead:
    """The head, as one process maps it.

    Attributes:
        bytes: All of the page.
        words: The same as whole numbers of 8 bytes.
        values: The same as floats.

    Args:
        memory: The page.
    """

    def __init__(self, memory: memoryview) -> None:
        self.bytes = memory
        self.words = memory.cast("Q")
        self.values = memory.cast("d")

    def begin(self, now: int) -> None:
        """Fill in a new page.

        Args:
            now: Nanoseconds since the epoch.
        """
        self.words[_STARTED] = now
        self.words[VERSION_WORD] = VERSION

    @property
    def started(self) -> int:
        """When it was made: nanoseconds since the epoch."""
        return self.words[_STARTED]

    def set_resource(self, data: bytes) -> None:
        """Say whose metrics these are (main process): ``marshalled.encode_resource``."""
        self.bytes[_RESOURCE_START : _RESOURCE_START + len(data)] = data
        self.words[_RESOURCE_LENGTH] = len(data)

    @property
    def resource(self) -> bytes:
        """The resource of all series, encoded; empty if none was set."""
        length = min(self.words[_RESOURCE_LENGTH], RESOURCE_BYTES)
        return bytes(self.bytes[_RESOURCE_START : _RESOURCE_START + length])

    def was_reached(self, exporters: int) -> bool:
        """Return whether the collector of one of this number of exporters took anything."""
        return any(self.state(number)[REACHED] for number in range(exporters))

    def set_queues(self, names: list[str]) -> None:
        """Say which queues the worker consumes from (main process)."""
        data = json.dumps(names).encode()
        if len(data) <= QUEUES_BYTES and data != self._queues():
            self.words[_QUEUES_LENGTH] = 0
            self.bytes[_QUEUES_START : _QUEUES_START + len(data)] = data
            self.words[_QUEUES_LENGTH] = len(data)

    @property
    def queues(self) -> list[str]:
        """Names of the queues that the worker consumes from; empty if that is not known."""
        try:
            names = json.loads(self._queues() or b"[]")
        except ValueError:  # something else has written there
            return []
        return [str(name) for name in names] if isinstance(names, list) else []

    def _queues(self) -> bytes:
        length = min(self.words[_QUEUES_LENGTH], QUEUES_BYTES)
        return bytes(self.bytes[_QUEUES_START : _QUEUES_START + length])

    def state(self, number: int) -> memoryview:
        """Return the words of an exporter, by its number."""
        start = _STATES + number % EXPORTERS * _STATE_WORDS
        return self.words[start : start + _STATE_WORDS]

    def note_notice(self, text: str) -> None:
        """Keep a sentence for the worker's log: the exporter process has none."""
        data = text.encode("utf-8", "replace")[:NOTICE_BYTES]
        self.words[_NOTICE_LENGTH] = 0
        self.bytes[_NOTICE_START : _NOTICE_START + len(data)] = data
        self.words[_NOTICE_LENGTH] = len(data)

    @property
    def notice(self) -> str:
        """The last sentence for the worker's log; empty for none."""
        length = min(self.words[_NOTICE_LENGTH], NOTICE_BYTES)
        data = bytes(self.bytes[_NOTICE_START : _NOTICE_START + length])
        return data.decode("utf-8", "replace")
