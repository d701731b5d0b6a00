# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's broker: kombu's filesystem transport, with messages that appear whole.

kombu opens a message's file under its final name before it writes (kombu
``transport/filesystem.py``, 5.7): a worker that looks in between reads an empty message
and stops.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Gives a message its name when it is written."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        path = Path(self.data_folder_out) / name
        unfinished = path.with_name(f"{name}.new")
        unfinished.write_text(dumps(payload))
        unfinished.rename(path)


class Transport(filesystem.Transport):  # type: ignore[misc]
    """The filesystem transport with that channel."""

    Channel = Channel


def use() -> None:
    """Make ``filesystem://`` mean this transport in this process."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
