"""What ``make test-kubernetes`` has built."""

from __future__ import annotations

import os
import subprocess


def run_tool(variable: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the program that a variable names."""
    return subprocess.run(
        [os.environ[variable], *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
