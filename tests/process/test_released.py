"""What a package index shows of the wheel: tools/package_metadata.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "https://git.example.com/team/otel-celery"
NAMES = {"Homepage", "Documentation", "Changelog", "Source", "Issues", "Security"}


def pip_wheel(source: Path, target: Path, address: str = "") -> Path:
    """Build a wheel, as pip does for whoever installs from a folder or an archive."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", target, source],
        check=True, capture_output=True, env={**os.environ, "PROJECT_URL": address},
    )  # fmt: skip
    (path,) = target.glob("*.whl")
    return path


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def urls(found: Message) -> dict[str, str]:
    lines = (each.partition(", ") for each in found.get_all("Project-URL", []))
    return {name: url for name, _, url in lines}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """What a release says of itself."""
    return metadata(pip_wheel(ROOT, tmp_path_factory.mktemp("whole"), f"{ADDRESS}/"))


def test_with_its_address_a_package_has_urls_and_whole_links(whole: Message) -> None:
    assert urls(whole).keys() == NAMES
    for url in urls(whole).values():
        assert url.startswith(ADDRESS)
        page = url.partition("/blob/main/")[2]
        assert not page or (ROOT / page).is_file()
    text = whole.get_payload()
    assert f"({ADDRESS}/raw/v{whole['Version']}/docs/pictures/" in text
    assert re.findall(r"\]\((?!https:)[^)]+\)", text) == []


def test_without_an_address_nothing_is_made_up(tmp_path: Path) -> None:
    found = metadata(pip_wheel(ROOT, tmp_path))
    assert urls(found) == {}
    assert str(found.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


def test_a_wheel_from_a_source_distribution_has_its_urls(
    whole: Message, tmp_path: Path
) -> None:
    """Who builds it need not know the address. (`make test-package` compares all bytes.)"""
    source = tmp_path / "source"
    (source / "tools").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "tools/package_metadata.py"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "otel_celery_launcher", source / "otel_celery_launcher")
    (source / "PKG-INFO").write_text(whole.as_string())
    found = metadata(pip_wheel(source, tmp_path / "again"))
    assert urls(found) == urls(whole)
    assert found.get_payload() == whole.get_payload()
