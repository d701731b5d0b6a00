"""What the package says of itself that depends on where the project is kept.

hatchling runs it. ``PROJECT_URL`` is the address of the repository: the release workflow
sets it. With it the package has the project's URLs, and the links of its description
lead there. Without it there are none, and links stay as they are in the repository.
A wheel that is built from a source distribution has what that one has (``PKG-INFO``).
"""

from __future__ import annotations

import os
import re
from email.parser import Parser
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = {
    "Homepage": "",
    "Documentation": "/blob/main/docs/README.md",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Source": "",
    "Issues": "/issues",
    "Security": "/blob/main/SECURITY.md",
}

# ``[text](docs/traces.md)`` and ``![text](docs/pictures/x.png)``, not ``https://…`` or ``#…``.
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)]+)\)")


def describe(readme: str, address: str, version: str) -> str:
    """Return the README as a package index shows it: its links lead to this release."""

    def absolute(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        kind = "raw" if mark else "blob"
        return f"{mark}[{text}]({address}/{kind}/v{version}/{target})"

    return LINK.sub(absolute, readme) if address else readme


class PackageMetadata(MetadataHookInterface):  # type: ignore[misc]
    """Description and URLs."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in ``readme`` and ``urls``."""
        address = os.environ.get("PROJECT_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text()
        urls = {name: address + path for name, path in PAGES.items() if address}
        described = Path(self.root) / "PKG-INFO"
        if described.is_file() and not address:
            fields = Parser().parsestr(described.read_text())
            lines = (each.partition(", ") for each in fields.get_all("Project-URL", []))
            urls = {name: url for name, _, url in lines}
            address = urls.get("Homepage", "")
        version = (Path(self.root) / "otel_celery_launcher/__init__.py").read_text()
        found = re.search(r'__version__ = "(.+)"', version)
        assert found is not None
        text = describe(text, address, found[1])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls
