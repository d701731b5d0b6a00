"""docs/compatibility.md and the matrix that it is made from."""

from __future__ import annotations

from pathlib import Path

from tests.process.test_matrix import POOLS, STARTS
from tools.make_compatibility import RELEASES

ROOT = Path(__file__).parent.parent.parent


def test_compatibility_page_has_every_cell_of_the_matrix() -> None:
    """The page is written by `make compatibility`; none of its cells failed."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    rows = [
        line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| ")
    ]
    assert [
        [pool.lstrip("| "), start] for pool, start in rows[1:] if "---" not in pool
    ] == [[pool, start] for pool in POOLS for start in STARTS]
    head = next(line for line in page.splitlines() if line.startswith("| pool"))
    assert [
        cell.rpartition(".")[0] for cell in head.strip(" |").split(" | ")[2:]
    ] == list(RELEASES)
    assert page.count("FAILED") == 1  # the legend's
