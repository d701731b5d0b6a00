"""What a person sees: each screen is a file of tests/screens, looked at and kept.

``make screens`` writes them anew; look at what has changed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.make_screens import FOLDER, SCREENS


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was(name: str) -> None:
    assert SCREENS[name]() == (FOLDER / name).read_text()


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_waterfall_takes_the_whole_width_and_no_more(columns: int) -> None:
    lines = (FOLDER / f"waterfall-{columns}.txt").read_text().splitlines()
    assert columns - 8 <= max(map(len, lines)) <= columns


def test_every_file_is_a_screen() -> None:
    assert {path.name for path in Path(FOLDER).iterdir()} == set(SCREENS)
