"""What a package index shows: tools/package_metadata.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools.package_metadata import PAGES, PackageMetadata, describe

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "https://git.example.com/team/otel-celery"


def metadata(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    PackageMetadata(str(root), {}).update(found)
    return found


def test_links_lead_to_the_files_of_the_release() -> None:
    text = "[a](docs/a.md#b) ![p](docs/p.png) [own](#own) [other](https://x.example/)"
    assert describe(text, ADDRESS, "1.2.3") == (
        f"[a]({ADDRESS}/blob/v1.2.3/docs/a.md#b) ![p]({ADDRESS}/raw/v1.2.3/docs/p.png)"
        " [own](#own) [other](https://x.example/)"
    )


def test_the_project_has_urls_where_its_address_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROJECT_URL", f"{ADDRESS}/")
    found = metadata(ROOT)
    assert found["urls"].keys() == PAGES.keys()
    assert all(url.startswith(ADDRESS) for url in found["urls"].values())
    for page in PAGES.values():
        path = page.partition("/blob/main/")[2]
        assert not path or (ROOT / path).is_file()
    assert "](docs/" not in found["readme"]["text"]


def test_without_an_address_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROJECT_URL", raising=False)
    found = metadata(ROOT)
    assert found["urls"] == {}
    assert found["readme"]["text"] == (ROOT / "README.md").read_text()


def test_a_wheel_has_what_its_source_distribution_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROJECT_URL", raising=False)
    (tmp_path / "otel_celery_launcher").mkdir()
    (tmp_path / "otel_celery_launcher/__init__.py").write_text('__version__ = "1.2.3"')
    (tmp_path / "README.md").write_text("[a](docs/a.md)")
    lines = [f"Project-URL: {name}, {ADDRESS}{page}" for name, page in PAGES.items()]
    (tmp_path / "PKG-INFO").write_text("\n".join(["Metadata-Version: 2.4", *lines]))
    found = metadata(tmp_path)
    assert found["urls"] == {name: ADDRESS + page for name, page in PAGES.items()}
    assert found["readme"]["text"] == f"[a]({ADDRESS}/blob/v1.2.3/docs/a.md)"
