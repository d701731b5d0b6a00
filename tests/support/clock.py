"""A wall clock that a test can step, for the processes that it starts."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "faults" / "clock.c"


class Clock:
    """Builds ``clock.c``; ``environ`` puts processes under this clock.

    Args:
        folder: For the library and the file with the offset.
    """

    def __init__(self, folder: Path) -> None:
        library, offset = folder / "clock.so", folder / "clock-offset"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True
        )
        offset.write_bytes(bytes(8))
        with offset.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}

    def step(self, seconds: float) -> None:
        """Set the clock so many seconds off the machine's."""
        self._page[:] = struct.pack("=q", int(seconds * 1e9))
